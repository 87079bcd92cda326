//! Durations as people write them in annotations: seconds, or numbers with units.

use jiff::SignedDuration;

const UNITS: [(&str, f64); 5] = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Reads `45`, `45s`, `1m30s`, `1.5h` or `250ms`; None for anything else and for negative durations.
#[must_use]
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(SignedDuration::from_secs);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..number_ends].parse().ok()?;
        let unit_onwards = &rest[number_ends..];
        let unit_ends = unit_onwards.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit_onwards.len());
        let (unit, remaining) = unit_onwards.split_at(unit_ends);
        seconds += number * UNITS.iter().find(|(name, _)| *name == unit)?.1;
        rest = remaining;
    }
    if text.is_empty() {
        return None;
    }
    SignedDuration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_numbers_with_units() {
        let table = [
            ("45", Some(45_000)),
            ("45s", Some(45_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("250ms", Some(250)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("5x", None),
            ("-5s", None),
            ("5 s", None),
            ("1.2.3s", None),
            ("99999999999999999999", None),
        ];
        for (text, millis) in table {
            assert_eq!(parse_duration(text), millis.map(SignedDuration::from_millis), "{text}");
        }
    }
}
