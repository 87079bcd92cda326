//! Counts given as a number or as a percentage, such as maxSurge.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a percentage that gives no whole number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Up,
    Down,
}

/// A count that is neither a number nor a percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a number nor a percentage such as \"25%\"")]
pub struct CountError {
    pub text: String,
}

/// The count that is meant, with percentages taken of `total`.
///
/// # Errors
/// When a text is not digits and a percent sign.
pub fn resolve(count: &IntOrString, total: i32, rounding: Rounding) -> Result<i32, CountError> {
    match count {
        IntOrString::Int(count) => Ok(*count),
        IntOrString::String(text) => {
            let percent = percent(text).ok_or_else(|| CountError { text: text.clone() })?;
            Ok(share(percent, total, rounding))
        }
    }
}

/// The number before the percent sign, if that is all there is.
#[must_use]
pub fn percent(text: &str) -> Option<i32> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn share(percent: i32, total: i32, rounding: Rounding) -> i32 {
    let hundredths = i64::from(percent) * i64::from(total);
    let rounded = match rounding {
        Rounding::Up => hundredths.div_euclid(100) + i64::from(hundredths.rem_euclid(100) != 0),
        Rounding::Down => hundredths.div_euclid(100),
    };
    i32::try_from(rounded).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_shares_of_the_total() {
        let table = [
            ("25%", 3, 1, 0),
            ("25%", 4, 1, 1),
            ("0%", 10, 0, 0),
            ("100%", 7, 7, 7),
            ("150%", 2, 3, 3),
            ("1%", 0, 0, 0),
            ("2147483647%", i32::MAX, i32::MAX, i32::MAX),
        ];
        for (text, total, up, down) in table {
            let count = IntOrString::String(text.into());
            assert_eq!(resolve(&count, total, Rounding::Up), Ok(up), "{text} of {total}");
            assert_eq!(resolve(&count, total, Rounding::Down), Ok(down), "{text} of {total}");
        }
        assert_eq!(resolve(&IntOrString::Int(5), 3, Rounding::Down), Ok(5));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["5", "", "%", "-5%", "+5%", "5.5%", "5 %", "99999999999%"] {
            let count = IntOrString::String(text.into());
            assert!(resolve(&count, 10, Rounding::Up).is_err(), "{text}");
        }
    }
}
