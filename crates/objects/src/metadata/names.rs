//! The shapes of names, each with the sentence the real server answers when a name is not of that shape.

const LONGEST_LABEL: usize = 63;
const LONGEST_SUBDOMAIN: usize = 253;
const LONGEST_PORT_NAME: usize = 15;

const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What is wrong with a label's or annotation's key, `[prefix/]name`.
#[must_use]
pub fn qualified_name_faults(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                QUALIFIED_NAME.trim_start_matches("name part ")
            )];
        }
        Some(("", name)) => {
            faults.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            faults.extend(dns_subdomain_faults(prefix).into_iter().map(|fault| format!("prefix part {fault}")));
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LONGEST_LABEL {
        faults.push(format!("name part {}", too_long(LONGEST_LABEL)));
    }
    if !is_qualified_part(name) {
        faults.push(QUALIFIED_NAME.to_owned());
    }
    faults
}

/// What is wrong with a label's value.
#[must_use]
pub fn label_value_faults(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LONGEST_LABEL {
        faults.push(too_long(LONGEST_LABEL));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        faults.push(LABEL_VALUE.to_owned());
    }
    faults
}

/// What is wrong with a name of one DNS label, such as a Namespace's or container's.
#[must_use]
pub fn dns_label_faults(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > LONGEST_LABEL {
        faults.push(too_long(LONGEST_LABEL));
    }
    if !is_dns_label(name) {
        faults.push(DNS_LABEL.to_owned());
    }
    faults
}

/// What is wrong with a name of DNS labels and dots, as most objects have.
#[must_use]
pub fn dns_subdomain_faults(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > LONGEST_SUBDOMAIN {
        faults.push(too_long(LONGEST_SUBDOMAIN));
    }
    if !name.split('.').all(is_dns_label) {
        faults.push(DNS_SUBDOMAIN.to_owned());
    }
    faults
}

/// What is wrong with a name that may be anything that fits between two slashes, as roles have.
#[must_use]
pub fn path_segment_faults(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    let unfit = ['/', '%'].into_iter().filter(|unfit| name.contains(*unfit));
    unfit.map(|unfit| format!("may not contain '{unfit}'")).collect()
}

/// What is wrong with a port's name, as containers have them.
#[must_use]
pub fn port_name_faults(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > LONGEST_PORT_NAME {
        faults.push(too_long(LONGEST_PORT_NAME));
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') || name.is_empty() {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

pub(crate) fn too_long(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

fn is_qualified_part(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_dns_label(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}
