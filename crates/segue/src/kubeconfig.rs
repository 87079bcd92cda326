//! `segue kubeconfig`: how to get at the API.

use std::fs;

use anyhow::{Context, ensure};
use network::tailnet::LocalApi;

use crate::cli::Kubeconfig;
use crate::settings::Directories;
use crate::show;

/// Prints the administrator's, or one for callers on the tailnet.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn kubeconfig(options: &Kubeconfig) -> anyhow::Result<()> {
    let text = if options.tailnet {
        let daemon = LocalApi::at(&options.tailscale_socket);
        let machine = daemon.machine().await?.context("this machine is not on a tailnet: `tailscale up` joins one")?;
        ensure!(
            machine.has_certificates,
            "the tailnet gives out no certificates, so there is no API on it: an administrator enables them under DNS, HTTPS \
             Certificates, in Tailscale's admin console"
        );
        for_tailnet(&machine.name, options.port)
    } else {
        let path = Directories::find(&options.directory.data_dir)?.kubeconfig();
        fs::read_to_string(&path)
            .with_context(|| format!("there is no {}: `segue up` writes it, for root to read", path.display()))?
    };
    show::line(text.trim_end());
    Ok(())
}

/// Whoever calls is known by the machine, so nothing in it is secret. kubectl asks for a password where there is nothing at
/// all to show, hence the token.
fn for_tailnet(machine: &str, port: u16) -> String {
    let name = machine.split('.').next().unwrap_or(machine);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
         clusters:\n- name: {name}\n  cluster:\n    server: https://{machine}:{port}\n\
         users:\n- name: tailnet\n  user:\n    token: unused\n\
         contexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: tailnet\n"
    )
}
