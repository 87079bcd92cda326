//! How the application behaves, from its environment and its arguments. Nothing is read here.

use std::collections::BTreeMap;
use std::time::Duration;

/// The application's behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Said in every answer.
    pub version: String,
    /// Said in every answer.
    pub pod: String,
    pub http_port: u16,
    pub metrics_port: u16,
    pub readiness: Readiness,
    /// `/healthz` fails from this long after the start on.
    pub unhealthy_after: Option<Duration>,
    /// It ends with exit code 1 this long after the start.
    pub crash_after: Option<Duration>,
    pub on_sigterm: OnSigterm,
    /// It takes so much memory at the start.
    pub memory_hog_mebibytes: Option<usize>,
}

/// When `/ready` says yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    After(Duration),
    Never,
}

/// What SIGTERM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSigterm {
    /// Accept nothing more, finish what is in flight, exit with 0.
    Drain,
    /// Exit with 143 and leave everything unfinished.
    Exit,
    Ignore,
}

/// A setting that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{name}={value} is not {unit}")]
    NotANumber { name: &'static str, value: String, unit: &'static str },
    #[error("ON_SIGTERM={value} is neither drain nor exit")]
    OnSigterm { value: String },
    #[error("{name}={value} is neither true nor false")]
    NotABoolean { name: &'static str, value: String },
    #[error("the argument {argument} is not NAME=VALUE")]
    Argument { argument: String },
}

impl Settings {
    /// Reads VERSION, POD_NAME, PORT, METRICS_PORT, READY_AFTER_MS, NEVER_READY, UNHEALTHY_AFTER_MS, CRASH_AFTER_MS,
    /// ON_SIGTERM (drain or exit), IGNORE_SIGTERM and MEMORY_HOG (MiB) from `environment`; an argument `NAME=VALUE`
    /// overrides the environment.
    ///
    /// # Errors
    /// Names the first setting that means nothing.
    pub fn parse(
        environment: impl IntoIterator<Item = (String, String)>,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Settings, SettingsError> {
        let mut given = Given(environment.into_iter().collect());
        for argument in arguments {
            let Some((name, value)) = argument.split_once('=') else {
                return Err(SettingsError::Argument { argument });
            };
            given.0.insert(name.to_owned(), value.to_owned());
        }
        given.settings()
    }
}

struct Given(BTreeMap<String, String>);

impl Given {
    fn settings(&self) -> Result<Settings, SettingsError> {
        let text = |name: &str, absent: &str| self.text(name).unwrap_or(absent).to_owned();
        Ok(Settings {
            version: text("VERSION", "unknown"),
            pod: self.text("POD_NAME").or(self.text("HOSTNAME")).unwrap_or("unknown").to_owned(),
            http_port: self.number("PORT", "a port number")?.unwrap_or(8080),
            metrics_port: self.number("METRICS_PORT", "a port number")?.unwrap_or(9090),
            readiness: self.readiness()?,
            unhealthy_after: self.millis("UNHEALTHY_AFTER_MS")?,
            crash_after: self.millis("CRASH_AFTER_MS")?,
            on_sigterm: self.on_sigterm()?,
            memory_hog_mebibytes: self.number("MEMORY_HOG", "a number of MiB")?,
        })
    }

    fn readiness(&self) -> Result<Readiness, SettingsError> {
        if self.is_true("NEVER_READY")? {
            return Ok(Readiness::Never);
        }
        Ok(Readiness::After(self.millis("READY_AFTER_MS")?.unwrap_or_default()))
    }

    fn on_sigterm(&self) -> Result<OnSigterm, SettingsError> {
        if self.is_true("IGNORE_SIGTERM")? {
            return Ok(OnSigterm::Ignore);
        }
        match self.text("ON_SIGTERM") {
            None | Some("drain") => Ok(OnSigterm::Drain),
            Some("exit") => Ok(OnSigterm::Exit),
            Some(other) => Err(SettingsError::OnSigterm { value: other.to_owned() }),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn millis(&self, name: &'static str) -> Result<Option<Duration>, SettingsError> {
        Ok(self.number(name, "a number of milliseconds")?.map(Duration::from_millis))
    }

    fn number<N: std::str::FromStr>(&self, name: &'static str, unit: &'static str) -> Result<Option<N>, SettingsError> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        let number = value.parse().map_err(|_| SettingsError::NotANumber { name, value: value.to_owned(), unit })?;
        Ok(Some(number))
    }

    fn is_true(&self, name: &'static str) -> Result<bool, SettingsError> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(SettingsError::NotABoolean { name, value: other.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(environment: &[(&str, &str)], arguments: &[&str]) -> Result<Settings, SettingsError> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings::parse(environment.iter().map(owned), arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn nothing_set_is_a_healthy_application() {
        let settings = parse(&[], &[]).unwrap();
        assert_eq!((settings.http_port, settings.metrics_port), (8080, 9090));
        assert_eq!(settings.readiness, Readiness::After(Duration::ZERO));
        assert_eq!(settings.on_sigterm, OnSigterm::Drain);
        assert_eq!((settings.crash_after, settings.memory_hog_mebibytes), (None, None));
    }

    #[test]
    fn arguments_override_the_environment() {
        let environment = [("VERSION", "v1"), ("NEVER_READY", "true"), ("ON_SIGTERM", "exit"), ("HOSTNAME", "app-x")];
        let settings = parse(&environment, &["VERSION=v2", "CRASH_AFTER_MS=20"]).unwrap();
        assert_eq!((settings.version.as_str(), settings.pod.as_str()), ("v2", "app-x"));
        assert_eq!((settings.readiness, settings.on_sigterm), (Readiness::Never, OnSigterm::Exit));
        assert_eq!(settings.crash_after, Some(Duration::from_millis(20)));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        let cases = [
            (("PORT", "http"), "PORT=http is not a port number"),
            (("ON_SIGTERM", "run"), "ON_SIGTERM=run is neither drain nor exit"),
            (("NEVER_READY", "yes"), "NEVER_READY=yes is neither true nor false"),
        ];
        for (variable, sentence) in cases {
            assert_eq!(parse(&[variable], &[]).unwrap_err().to_string(), sentence);
        }
        assert_eq!(parse(&[], &["v2"]).unwrap_err().to_string(), "the argument v2 is not NAME=VALUE");
    }
}
