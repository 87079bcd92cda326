//! What has to be true of a machine before anything is changed on it.

use serde_json::Value;

use crate::rules::{InForce, Rules, RulesError, in_force, parse, run};
use objects::ranges::Range;

/// Addresses that a tailnet gives its machines.
const TAILNET: &str = "100.64.0.0/10";

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("{program} is missing; install it, on Debian and Ubuntu with `apt-get install {package}`")]
    Missing {
        program: &'static str,
        package: &'static str,
        #[source]
        source: RulesError,
    },
    #[error("nftables can't be used; it needs root and a kernel with nf_tables")]
    NoTables {
        #[source]
        source: RulesError,
    },
    #[error("the routes of this machine can't be read")]
    Routes {
        #[source]
        source: RulesError,
    },
    #[error(transparent)]
    Clash(#[from] Clash),
}

/// A range that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    #[error(
        "pods ({pods}) and Services ({services}) would share addresses; choose others with --pod-cidr or --service-cidr"
    )]
    EachOther { pods: Range, services: Range },
    #[error(
        "{option} {range} has addresses of {TAILNET}, which a tailnet gives to machines; choose another range with {option}"
    )]
    Tailnet { option: &'static str, range: Range },
    #[error(
        "{option} {range} has addresses that this machine reaches otherwise: `{route}`; choose another range with {option}"
    )]
    Route { option: &'static str, range: Range, route: String },
}

/// A route of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: Range,
    pub device: String,
    /// As `ip route` writes it, in short.
    pub written: String,
}

/// Checks the machine.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(rules: &Rules) -> Result<(), PreflightError> {
    run("nft", &["--version"], "").map_err(|source| PreflightError::Missing {
        program: "nft",
        package: "nftables",
        source,
    })?;
    run("ip", &["-Version"], "").map_err(|source| PreflightError::Missing {
        program: "ip",
        package: "iproute2",
        source,
    })?;
    run("nft", &["list", "tables"], "").map_err(|source| PreflightError::NoTables { source })?;
    let ours = in_force(&rules.instance).map_err(|source| PreflightError::NoTables { source })?;
    let listed = run("ip", &["-4", "-json", "route", "show", "table", "all"], "")
        .and_then(|written| parse("ip -json route", &written))
        .map_err(|source| PreflightError::Routes { source })?;
    Ok(find_clash(rules, &read_routes(&listed), &ours)?)
}

/// What stands against the ranges. Routes that this instance made earlier don't count.
///
/// # Errors
/// The first clash.
pub fn find_clash(rules: &Rules, routes: &[Route], ours: &InForce) -> Result<(), Clash> {
    let Rules { links, pods, services, .. } = rules;
    if pods.overlaps(*services) {
        return Err(Clash::EachOther { pods: *pods, services: *services });
    }
    let tailnet = Range::around(std::net::Ipv4Addr::new(100, 64, 0, 0), 10);
    let is_ours =
        |route: &Route| route.device.starts_with(links) || (route.device == "lo" && ours.services.contains(&route.to));
    for (option, range) in [("--pod-cidr", *pods), ("--service-cidr", *services)] {
        if range.overlaps(tailnet) {
            return Err(Clash::Tailnet { option, range });
        }
        let others = routes.iter().filter(|route| !route.to.is_everything() && !is_ours(route));
        if let Some(route) = others.into_iter().find(|route| route.to.overlaps(range)) {
            return Err(Clash::Route { option, range, route: route.written.clone() });
        }
    }
    Ok(())
}

/// Reads what `ip -4 -json route show table all` writes.
#[must_use]
pub fn read_routes(listed: &Value) -> Vec<Route> {
    listed.as_array().into_iter().flatten().filter_map(read_route).collect()
}

fn read_route(route: &Value) -> Option<Route> {
    let to = route["dst"].as_str()?;
    let range = match to {
        "default" => "0.0.0.0/0".parse(),
        range if range.contains('/') => range.parse(),
        address => format!("{address}/32").parse(),
    };
    let device = route["dev"].as_str().unwrap_or_default().to_owned();
    let words = [route["type"].as_str(), Some(to), route["gateway"].as_str(), Some("dev"), Some(&device)];
    let written = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    Some(Route { to: range.ok()?, device, written })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(pods: &str, services: &str) -> Rules {
        let links = "sg12ab".to_owned();
        Rules {
            instance: "test".to_owned(),
            links,
            pods: pods.parse().unwrap(),
            services: services.parse().unwrap(),
            mesh_port: 745,
        }
    }

    fn check(pods: &str, services: &str, expected: Result<(), &str>) {
        let routes = read_routes(&json!([
            {"dst": "default", "gateway": "192.168.1.1", "dev": "eth0"},
            {"dst": "192.168.1.0/24", "dev": "eth0", "scope": "link"},
            {"type": "local", "dst": "10.45.0.0/16", "dev": "lo", "table": "local"},
            {"type": "local", "dst": "127.0.0.0/8", "dev": "lo", "table": "local"},
            {"dst": "10.44.0.7", "dev": "sg12ab00000001", "scope": "link"},
            {"dst": "10.99.0.0/16", "gateway": "192.168.1.9", "dev": "eth0"},
        ]));
        let ours = InForce { pods: Vec::new(), services: vec!["10.45.0.0/16".parse().unwrap()] };
        let found = find_clash(&rules(pods, services), &routes, &ours).map_err(|clash| clash.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn the_defaults_clash_with_nothing_and_not_with_themselves() {
        check("10.44.0.0/16", "10.45.0.0/16", Ok(()));
    }

    #[test]
    fn a_range_that_is_reached_otherwise_is_named_with_its_route() {
        check(
            "10.99.3.0/24",
            "10.45.0.0/16",
            Err("--pod-cidr 10.99.3.0/24 has addresses that this machine reaches otherwise: \
                 `10.99.0.0/16 192.168.1.9 dev eth0`; choose another range with --pod-cidr"),
        );
        check(
            "10.44.0.0/16",
            "127.7.0.0/16",
            Err("--service-cidr 127.7.0.0/16 has addresses that this machine reaches otherwise: \
                 `local 127.0.0.0/8 dev lo`; choose another range with --service-cidr"),
        );
    }

    #[test]
    fn ranges_may_not_overlap_each_other_or_a_tailnet() {
        check(
            "10.45.0.0/20",
            "10.45.0.0/16",
            Err("pods (10.45.0.0/20) and Services (10.45.0.0/16) would share addresses; \
                 choose others with --pod-cidr or --service-cidr"),
        );
        check(
            "100.80.0.0/16",
            "10.45.0.0/16",
            Err("--pod-cidr 100.80.0.0/16 has addresses of 100.64.0.0/10, which a tailnet gives to machines; \
                 choose another range with --pod-cidr"),
        );
    }
}
