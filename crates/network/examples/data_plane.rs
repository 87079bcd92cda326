//! The roles of this crate as a program of their own, as its tests start them.

use std::error::Error;

use network::preflight::check;
use network::rules::{Rules, remove};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|role| role.to_str()) {
        Some("keeper") => Ok(network::keeper::run(arguments)?),
        Some("proxy") => Ok(network::proxy::run(arguments)?),
        Some("preflight") => Ok(check(&rules(arguments)?)?),
        Some("apply-rules") => Ok(rules(arguments)?.apply()?),
        Some("remove-rules") => Ok(remove("test")?),
        Some(_) | None => Err("name a role: keeper, proxy, preflight, apply-rules or remove-rules".into()),
    }
}

fn rules(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Rules, Box<dyn Error>> {
    let ranges: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let [pods, services] = ranges.as_slice() else { return Err("name the ranges of pods and of Services".into()) };
    let (instance, links) = ("test".to_owned(), "sgtest".to_owned());
    Ok(Rules { instance, links, pods: pods.parse()?, services: services.parse()?, mesh_port: 745 })
}
