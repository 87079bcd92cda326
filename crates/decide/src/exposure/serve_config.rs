//! The daemon's serve configuration, as JSON: what we don't know in it passes through, because nobody looks at it.
//! Its shape is that of Tailscale's `ipn.ServeConfig`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::wanted::{Entry, is_to_https};

const SERVICES: &str = "Services";
const FOREGROUND: &str = "Foreground";
const ALLOW_FUNNEL: &str = "AllowFunnel";
const TCP: &str = "TCP";
const WEB: &str = "Web";
const HANDLERS: &str = "Handlers";

/// A configuration in which nothing is ours any more.
pub(super) struct WithoutOurs {
    pub(super) config: Value,
    /// Tailscale Services that had entries of ours and no others.
    pub(super) services: BTreeSet<String>,
}

/// Takes out every entry whose target is ours, and what is empty then.
pub(super) fn without(config: &Value, is_ours: &dyn Fn(&str) -> bool) -> WithoutOurs {
    let mut config = config.clone();
    let mut services = BTreeSet::new();
    let Some(root) = config.as_object_mut() else { return WithoutOurs { config, services } };
    if let Some(sections) = root.get_mut(SERVICES).and_then(Value::as_object_mut) {
        for (name, section) in sections.iter_mut() {
            let Some(section) = section.as_object_mut() else { continue };
            if clean(section, is_ours) && section.is_empty() {
                services.insert(name.clone());
            }
        }
        sections.retain(|name, _| !services.contains(name));
        if sections.is_empty() && !services.is_empty() {
            root.shift_remove(SERVICES);
        }
    }
    let has_changed = clean(root, is_ours) || !services.is_empty();
    if has_changed && root.is_empty() {
        config = Value::Null;
    }
    WithoutOurs { config, services }
}

/// Whether anything was taken out.
fn clean(section: &mut Map<String, Value>, is_ours: &dyn Fn(&str) -> bool) -> bool {
    let leads_to_us = |entry: &Value, field: &str| entry[field].as_str().is_some_and(is_ours);
    let mut has_changed = false;
    let mut emptied = Vec::new();
    if let Some(web) = section.get_mut(WEB).and_then(Value::as_object_mut) {
        for (name, site) in web.iter_mut() {
            let Some(handlers) = site.get_mut(HANDLERS).and_then(Value::as_object_mut) else { continue };
            let before = handlers.len();
            handlers.retain(|_, handler| !leads_to_us(handler, "Proxy"));
            if handlers.len() < before {
                has_changed = true;
                handlers.retain(|_, handler| !is_to_https(handler));
            }
            if handlers.is_empty() && before > 0 {
                emptied.push(name.clone());
            }
        }
        web.retain(|name, _| !emptied.contains(name));
    }
    let web = section.get(WEB).and_then(Value::as_object);
    let still_served: BTreeSet<&str> = web.into_iter().flatten().filter_map(|(name, _)| port_of(name)).collect();
    let unserved: BTreeSet<String> = emptied
        .iter()
        .filter_map(|name| port_of(name))
        .collect::<BTreeSet<_>>()
        .difference(&still_served)
        .map(|port| (*port).to_owned())
        .collect();
    if let Some(tcp) = section.get_mut(TCP).and_then(Value::as_object_mut) {
        let before = tcp.len();
        tcp.retain(|port, entry| !leads_to_us(entry, "TCPForward") && !unserved.contains(port));
        has_changed |= tcp.len() < before;
    }
    if let Some(public) = section.get_mut(ALLOW_FUNNEL).and_then(Value::as_object_mut) {
        let before = public.len();
        public.retain(|name, _| !emptied.contains(name));
        if public.is_empty() && before > 0 {
            section.shift_remove(ALLOW_FUNNEL);
        }
    }
    if has_changed {
        for part in [TCP, WEB] {
            if section.get(part).and_then(Value::as_object).is_some_and(Map::is_empty) {
                section.shift_remove(part);
            }
        }
    }
    has_changed
}

/// Whether a port, of the machine or of a Tailscale Service, is of one type before and of another after.
pub(super) fn turns(before: &Value, after: &Value, service: Option<&str>, port: &str) -> bool {
    let type_of = |config: &Value| {
        let section = service.map_or(config, |service| &config[SERVICES][service]);
        let entry = section[TCP].get(port)?;
        let is = |field: &str| entry[field] == true;
        Some((is("HTTP"), is("HTTPS"), entry["TerminateTLS"].as_str().is_some_and(|name| !name.is_empty())))
    };
    matches!((type_of(before), type_of(after)), (Some(before), Some(after)) if before != after)
}

/// Of `name:port`.
fn port_of(name: &str) -> Option<&str> {
    name.rsplit_once(':').map(|(_, port)| port)
}

/// Why a port can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Somebody else has it.
    Served,
    /// Whatever is there is reached from the whole Internet.
    Public,
}

/// The ports of the machine's own name, or of a Tailscale Service.
pub(super) struct Section<'c> {
    config: &'c mut Value,
    service: Option<&'c str>,
}

impl<'c> Section<'c> {
    pub(super) fn of_machine(config: &'c mut Value) -> Self {
        Self { config, service: None }
    }

    pub(super) fn of_service(config: &'c mut Value, service: &'c str) -> Self {
        Self { config, service: Some(service) }
    }

    pub(super) fn is_there(&self) -> bool {
        self.service.is_none_or(|service| self.config[SERVICES].get(service).is_some())
    }

    /// Makes a port of `name` do what an entry says.
    pub(super) fn add(self, name: &str, entry: &Entry) -> Result<(), Taken> {
        let port = entry.port.to_string();
        // What runs in the foreground of somebody's terminal has ports of the machine.
        let foreground = self.config[FOREGROUND].as_object().into_iter().flatten();
        let mut others = foreground.map(|(_, session)| session).filter(|_| self.service.is_none());
        if others.any(|session| session[TCP].get(&port).is_some()) {
            return Err(Taken::Served);
        }
        let at = format!("{name}:{port}");
        let is_public = self.config[ALLOW_FUNNEL].get(&at).is_some_and(|public| *public == true);
        if is_public && self.service.is_none() && self.config[TCP].get(&port).is_none() {
            return Err(Taken::Public);
        }
        let root = object(self.config)?;
        let section = match self.service {
            None => root,
            Some(service) => {
                object(object(root.entry(SERVICES).or_insert(Value::Null))?.entry(service).or_insert(Value::Null))?
            }
        };
        let tcp = object(section.entry(TCP).or_insert(Value::Null))?;
        if tcp.contains_key(&port) {
            return Err(Taken::Served);
        }
        tcp.insert(port.clone(), entry.tcp());
        if let Some(handlers) = entry.handlers() {
            let web = object(section.entry(WEB).or_insert(Value::Null))?;
            web.insert(at, json!({HANDLERS: handlers}));
        }
        Ok(())
    }

    /// Has `name` be reached from the whole Internet at this port.
    pub(super) fn funnel(self, name: &str, port: u16) {
        let public = object(self.config).and_then(|root| object(root.entry(ALLOW_FUNNEL).or_insert(Value::Null)));
        if let Ok(public) = public {
            public.insert(format!("{name}:{port}"), Value::Bool(true));
        }
    }
}

/// What is no object is not ours to change.
fn object(value: &mut Value) -> Result<&mut Map<String, Value>, Taken> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().ok_or(Taken::Served)
}
