//! Which registry, repository and version does an image's name mean? Docker's rules, so that every name that
//! Docker and Kubernetes accept means the same here.

use std::fmt;

/// Registry of a name that states none.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_LEGACY: &str = "index.docker.io";

/// Docker's limit on a repository's path.
const LONGEST_REPOSITORY: usize = 255;

/// Docker's limit on a tag.
const LONGEST_TAG: usize = 128;

/// A normalised image name: registry and repository are always present, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text names no image, in Docker's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidImageName {
    Format,
    Uppercase { repository: String },
    Hexadecimal { name: String },
    TooLong,
    DigestAlgorithm,
    DigestLength,
}

impl ImageReference {
    /// Reads `[registry/]repository[:tag][@digest]`; without tag and digest it means `:latest`.
    pub fn parse(text: &str) -> Result<ImageReference, InvalidImageName> {
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            let name = text.to_owned();
            return Err(InvalidImageName::Hexadecimal { name });
        }
        let (registry, rest) = split_registry(text);
        let before_colon = rest.split(':').next().unwrap_or(rest);
        if before_colon.chars().any(char::is_uppercase) {
            let repository = before_colon.to_owned();
            return Err(InvalidImageName::Uppercase { repository });
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let repository = default_library(registry, path);
        check(registry, &repository, tag, digest)?;
        let latest = (tag.is_none() && digest.is_none()).then_some("latest");
        Ok(ImageReference {
            registry: registry.to_owned(),
            repository,
            tag: tag.or(latest).map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Host and port, `docker.io` when the name stated none.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry, such as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Algorithm and hex digits, such as `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name by which exactly this content is found: a digest makes the tag meaningless.
    pub fn canonical(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => self.name(),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for ImageReference {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        ImageReference::parse(text)
    }
}

impl fmt::Display for InvalidImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidImageName::Format => write!(f, "invalid reference format"),
            InvalidImageName::Uppercase { repository } => {
                write!(f, "invalid reference format: repository name ({repository}) must be lowercase")
            }
            InvalidImageName::Hexadecimal { name } => {
                write!(f, "invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")
            }
            InvalidImageName::TooLong => {
                write!(f, "repository name must not be more than {LONGEST_REPOSITORY} characters")
            }
            InvalidImageName::DigestAlgorithm => write!(f, "unsupported digest algorithm"),
            InvalidImageName::DigestLength => write!(f, "invalid checksum digest length"),
        }
    }
}

impl std::error::Error for InvalidImageName {}

/// The first component is a registry when it looks like a host: a dot, a port, `localhost` or capital letters.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((DOCKER_HUB_LEGACY, rest)) => (DOCKER_HUB, rest),
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        Some(_) | None => (DOCKER_HUB, text),
    }
}

fn looks_like_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase)
}

fn default_library(registry: &str, path: &str) -> String {
    if registry == DOCKER_HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() }
}

fn check(registry: &str, repository: &str, tag: Option<&str>, digest: Option<&str>) -> Result<(), InvalidImageName> {
    let well_formed = is_registry(registry)
        && repository.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest_shape);
    if !well_formed {
        return Err(InvalidImageName::Format);
    }
    if repository.len() > LONGEST_REPOSITORY {
        return Err(InvalidImageName::TooLong);
    }
    digest.map_or(Ok(()), check_digest)
}

fn is_registry(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        return rest
            .split_once(']')
            .is_some_and(|(address, port)| is_ipv6(address) && (port.is_empty() || is_port(port)));
    }
    match text.find(':') {
        Some(colon) => is_host(&text[..colon]) && is_port(&text[colon..]),
        None => is_host(text),
    }
}

fn is_host(text: &str) -> bool {
    text.split('.').all(is_host_label)
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

/// A colon and digits.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case letters and digits, in groups separated by one dot, one or two underscores, or dashes.
fn is_path_component(text: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_alphanumeric)
        && text.ends_with(is_alphanumeric)
        && text.split(is_alphanumeric).all(is_separator)
}

fn is_separator(text: &str) -> bool {
    matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-')
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= LONGEST_TAG
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest_shape(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm
            .split(['+', '.', '-', '_'])
            .all(|part| part.starts_with(|c: char| c.is_ascii_alphabetic()) && is_alphanumeric(part))
            && hex.len() >= 32
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn is_alphanumeric(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn check_digest(digest: &str) -> Result<(), InvalidImageName> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or((digest, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(InvalidImageName::DigestAlgorithm),
    };
    if hex.len() != length {
        return Err(InvalidImageName::DigestLength);
    }
    if !hex.bytes().all(is_lower_hex) {
        return Err(InvalidImageName::Format);
    }
    Ok(())
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_mean_what_docker_means() {
        let digest = format!("app@sha256:{HEX}");
        let digest_full = format!("docker.io/library/app@sha256:{HEX}");
        let both = format!("host:5000/a/b:1.0@sha256:{HEX}");
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/a/b:1", "docker.io/a/b:1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:2", "localhost:5000/app:2"),
            ("registry.example.com/app:latest", "registry.example.com/app:latest"),
            ("ghcr.io/a/b/c__d-e.f---g", "ghcr.io/a/b/c__d-e.f---g:latest"),
            ("127.0.0.1:5000/a:v1", "127.0.0.1:5000/a:v1"),
            ("[::1]:5000/a:v1", "[::1]:5000/a:v1"),
            ("[2001:db8::1]/a", "[2001:db8::1]/a:latest"),
            ("HOST/app", "HOST/app:latest"),
            ("app:_Tag.with-All_3", "docker.io/library/app:_Tag.with-All_3"),
            (digest.as_str(), digest_full.as_str()),
            (both.as_str(), both.as_str()),
        ] {
            let reference = ImageReference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(ImageReference::parse(full), Ok(reference), "{text}");
        }
    }

    #[test]
    fn names_that_docker_refuses_are_refused() {
        let long = "a".repeat(256);
        let tag = format!("app:{}", "t".repeat(129));
        let short = format!("app@sha256:{}", &HEX[..40]);
        let unknown = format!("app@md5:{}", &HEX[..32]);
        let upper_digest = format!("app@sha256:{}", HEX.to_uppercase());
        for text in [
            "",
            " ",
            "app ",
            " app",
            "app:",
            "app:-1",
            "app:a b",
            "app@",
            "app@sha256",
            "app@sha256:xyz",
            "/app",
            "app/",
            "a//b",
            "-app",
            "app-",
            "app..b",
            "a___b",
            "a._b",
            ".app",
            "host:/app",
            "host:port/app",
            "-host.com/app",
            "host-.com/app",
            "ho_st.com:1/app",
            "[::1/app",
            "[zz]:1/app",
            "http://host/app",
            "app:1:2",
            "app?",
            "âpp",
            "app\n",
            long.as_str(),
            tag.as_str(),
            short.as_str(),
            unknown.as_str(),
            upper_digest.as_str(),
            HEX,
        ] {
            assert!(ImageReference::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let long = format!("example.com/{}", "a".repeat(256));
        let unknown = format!("app@md5:{}", &HEX[..32]);
        let short = format!("app@sha256:{}", &HEX[..40]);
        let hexadecimal = format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings");
        for (text, sentence) in [
            ("app:", "invalid reference format"),
            ("My/App", "invalid reference format: repository name (App) must be lowercase"),
            ("App", "invalid reference format: repository name (App) must be lowercase"),
            (HEX, hexadecimal.as_str()),
            (long.as_str(), "repository name must not be more than 255 characters"),
            (unknown.as_str(), "unsupported digest algorithm"),
            (short.as_str(), "invalid checksum digest length"),
        ] {
            assert_eq!(ImageReference::parse(text).unwrap_err().to_string(), sentence);
        }
    }

    #[test]
    fn a_digest_makes_the_tag_meaningless() {
        let reference = ImageReference::parse(&format!("app:1@sha256:{HEX}")).unwrap();
        assert_eq!(reference.canonical(), format!("docker.io/library/app@sha256:{HEX}"));
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(ImageReference::parse("app:1").unwrap().canonical(), "docker.io/library/app:1");
    }
}
