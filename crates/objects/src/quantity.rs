//! Amounts such as `100m`, `1.5Gi` or `2e3`: reading them, comparing them, and the one way each is written.
//! Every amount is kept exactly, in billionths; what is finer is rounded away from zero, as the real server does.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANOS_PER_UNIT: i128 = 1_000_000_000;

/// Kubernetes caps amounts at what a signed 64-bit integer holds.
const LARGEST_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT;

/// Digits that are read exactly. The largest amount has 28 in billionths; 28 digits times 10^9 fit 128 bits.
const LONGEST_WHOLE: usize = 28;

/// Digits after the point that are read exactly: 18 digits times 2^60 fit 128 bits.
const LONGEST_FRACTION: usize = 18;

const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// An amount that was read, with the notation it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    nanos: i128,
    notation: Notation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    Decimal,
    Binary,
    Exponent,
}

/// Why a text is not a quantity, in the real server's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Reads an amount.
///
/// # Errors
/// When the text is not a number with an optional suffix, or the suffix is not known.
pub fn parse(text: &str) -> Result<Amount, QuantityError> {
    let (is_negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityError::Format);
    }
    let (scale, notation) = read_suffix(suffix)?;
    let magnitude = scaled(whole, fraction, scale);
    let nanos = if is_negative { -magnitude } else { magnitude };
    Ok(Amount { nanos, notation })
}

/// The form in which the real server stores and shows an amount, e.g. `1` for `1000m`.
///
/// # Errors
/// As [`parse`].
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    Ok(parse(text)?.to_string())
}

/// Thousandths of a core, rounded up; 0 for what is not a quantity.
#[must_use]
pub fn cpu_millis(quantity: &Quantity) -> i64 {
    parse(&quantity.0).map_or(0, |amount| amount.millis())
}

/// Bytes, rounded up; 0 for what is not a quantity.
#[must_use]
pub fn bytes(quantity: &Quantity) -> i64 {
    parse(&quantity.0).map_or(0, |amount| amount.value())
}

/// Whole units, rounded up; None for what is not a quantity, or less than one.
#[must_use]
pub fn positive(text: &str) -> Option<u64> {
    u64::try_from(parse(text).ok()?.value()).ok().filter(|number| *number > 0)
}

impl Amount {
    /// Thousandths, rounded up and capped at `i64::MAX`.
    #[must_use]
    pub fn millis(self) -> i64 {
        capped(ceiling(self.nanos, NANOS_PER_UNIT / 1000))
    }

    /// Whole units, rounded up.
    #[must_use]
    pub fn value(self) -> i64 {
        capped(ceiling(self.nanos, NANOS_PER_UNIT))
    }

    /// Whether it is below zero.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS_PER_UNIT == 0
    }

    /// Compares two amounts, whatever their notation.
    #[must_use]
    pub fn compare(self, other: Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_small = self.nanos.abs() < 1024 * NANOS_PER_UNIT;
        match self.notation {
            Notation::Binary if !is_small && self.is_whole() => {
                let (number, power) = without_factors(self.nanos / NANOS_PER_UNIT, 1024, 6);
                write!(out, "{number}{}", BINARY_SUFFIXES[power])
            }
            Notation::Binary | Notation::Decimal => {
                let (number, power) = without_factors(self.nanos, 1000, 9);
                write!(out, "{number}{}", DECIMAL_SUFFIXES[zero_as_unit(number, power)].0)
            }
            Notation::Exponent => {
                let (number, power) = without_factors(self.nanos, 1000, 9);
                match DECIMAL_SUFFIXES[zero_as_unit(number, power)].1 {
                    0 => write!(out, "{number}"),
                    exponent => write!(out, "{number}e{exponent}"),
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn read_suffix(suffix: &str) -> Result<(Scale, Notation), QuantityError> {
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Ok((Scale::Ten(*exponent), Notation::Decimal));
    }
    if let Some(power) = (1..).zip(&BINARY_SUFFIXES[1..]).find_map(|(power, name)| (*name == suffix).then_some(power)) {
        return Ok((Scale::Two(10 * power), Notation::Binary));
    }
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(suffix_error(suffix))?;
    let exponent = digits.parse().map_err(|_| suffix_error(suffix))?;
    Ok((Scale::Ten(exponent), Notation::Exponent))
}

/// The real server tells a suffix of impossible letters from one that merely has no meaning.
fn suffix_error(suffix: &str) -> QuantityError {
    let digits_at = suffix.find(|c: char| !"eEinumkKMGTP".contains(c)).unwrap_or(suffix.len());
    let number = suffix[digits_at..].trim_start_matches(['+', '-']);
    let is_shaped = suffix[digits_at..].len() - number.len() <= 1 && number.bytes().all(|b| b.is_ascii_digit());
    if is_shaped { QuantityError::Suffix } else { QuantityError::Format }
}

/// `whole.fraction` times the scale in billionths, rounded up and capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return 0;
    }
    if whole.len() > LONGEST_WHOLE {
        return scaled_long(whole, scale);
    }
    let kept = &fraction[..fraction.len().min(LONGEST_FRACTION)];
    let is_cut = i128::from(kept.len() < fraction.len());
    if matches!(scale, Scale::Ten(_)) && whole.len() + kept.len() <= LONGEST_WHOLE {
        return shifted(digits(&[whole, kept].concat()) + is_cut, kept.len(), scale);
    }
    let part = shifted(digits(kept) + is_cut, kept.len(), scale);
    shifted(digits(whole), 0, scale).saturating_add(part).min(LARGEST_NANOS)
}

/// A whole number too long for exact arithmetic: only a negative exponent can bring it below the cap.
fn scaled_long(whole: &str, scale: Scale) -> i128 {
    let Scale::Ten(exponent) = scale else { return LARGEST_NANOS };
    let dropped = whole.len() - LONGEST_WHOLE;
    let lost = whole[LONGEST_WHOLE..].bytes().any(|digit| digit != b'0');
    let exponent = exponent.saturating_add(i32::try_from(dropped).unwrap_or(i32::MAX));
    shifted(digits(&whole[..LONGEST_WHOLE]) + i128::from(lost), 0, Scale::Ten(exponent))
}

fn digits(text: &str) -> i128 {
    text.bytes().fold(0, |number, digit| number * 10 + i128::from(digit - b'0'))
}

/// `number / 10^decimals` times the scale, in billionths, rounded up and capped.
fn shifted(number: i128, decimals: usize, scale: Scale) -> i128 {
    if number == 0 {
        return 0;
    }
    let decimals = i32::try_from(decimals).unwrap_or(i32::MAX);
    let (number, exponent) = match scale {
        Scale::Ten(exponent) => (number, exponent.saturating_sub(decimals).saturating_add(9)),
        Scale::Two(power) => match number.checked_mul(1 << power) {
            Some(product) => (product, 9 - decimals),
            None => return LARGEST_NANOS,
        },
    };
    match ten_to(exponent.unsigned_abs()) {
        Some(factor) if exponent >= 0 => number.saturating_mul(factor).min(LARGEST_NANOS),
        Some(factor) => ceiling(number, factor).min(LARGEST_NANOS),
        None if exponent >= 0 => LARGEST_NANOS,
        None => 1,
    }
}

fn ten_to(power: u32) -> Option<i128> {
    10_i128.checked_pow(power)
}

fn ceiling(number: i128, divisor: i128) -> i128 {
    number.div_euclid(divisor) + i128::from(number.rem_euclid(divisor) != 0)
}

fn capped(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// Divides by `factor` as long as nothing is left over, at most `most` times.
fn without_factors(mut number: i128, factor: i128, most: usize) -> (i128, usize) {
    let mut power = 0;
    while power < most && number != 0 && number % factor == 0 {
        number /= factor;
        power += 1;
    }
    (number, power)
}

/// Zero has no factors to remove, and is written without a suffix.
fn zero_as_unit(number: i128, power: usize) -> usize {
    const UNIT: usize = 3;
    if number == 0 { UNIT } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn canonical_form_is_stable_and_the_same_amount(text in "-?[0-9]{1,9}(\\.[0-9]{1,4})?(n|u|m|k|M|G|T|P|Ki|Mi|Gi|Ti|e3|E-2)?") {
            let amount = parse(&text).unwrap();
            let canonical = amount.to_string();
            let again = parse(&canonical).unwrap();
            prop_assert!(again.compare(amount).is_eq(), "{} became {}", text, canonical);
            prop_assert_eq!(again.to_string(), canonical);
        }
    }

    #[test]
    fn canonical_form_is_the_real_servers() {
        let table = [
            ("0", "0"),
            ("0m", "0"),
            ("1000m", "1"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100m", "100m"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.1Gi", "107374182400m"),
            ("1024Mi", "1Gi"),
            ("1024", "1024"),
            ("1000Ki", "1000Ki"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("1500k", "1500k"),
            ("2000k", "2M"),
            ("1e3", "1e3"),
            ("12e-1", "1200e-3"),
            ("1E", "1E"),
            ("-5", "-5"),
            ("+5", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("15.5e-10", "2e-9"),
            ("100E", "9223372036854775807"),
            ("64Ei", "9223372036854775807"),
            ("1000000000000000000000", "9223372036854775807"),
            ("10000000.01Gi", "10737418250737418240m"),
            ("99999999999999999999999999999999n", "9223372036854775807"),
            ("10000000000000000000000000001n", "9223372036854775807"),
            ("1e999999999", "9223372036854775807"),
        ];
        for (text, expected) in table {
            assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn amounts_round_up() {
        assert_eq!(parse("1.5m").unwrap().millis(), 2);
        assert_eq!(parse("100m").unwrap().value(), 1);
        assert_eq!(parse("-100m").unwrap().value(), 0);
        assert_eq!(parse("250m").unwrap().millis(), 250);
        assert_eq!(bytes(&Quantity("128Mi".into())), 134_217_728);
        assert_eq!(cpu_millis(&Quantity("2".into())), 2000);
        assert_eq!(cpu_millis(&Quantity("two".into())), 0);
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", "abc", ".", "-", "1.2.3", "1 Gi", "1Gi ", "12Xi", "ä"] {
            assert_eq!(parse(text), Err(QuantityError::Format), "{text}");
        }
        for text in ["1K", "1ki", "1mi", "1ee3", "1e", "1Eii"] {
            assert_ne!(parse(text).err(), None, "{text}");
        }
    }
}
