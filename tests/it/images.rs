//! Where images come from: archives, and registries that let only some in.

use end_to_end::images::{APP, write_archive};
use end_to_end::machine::Machine;
use end_to_end::registry::{PASSWORD, PRIVATE, USER, storage};
use end_to_end::run::{output_of, run};

#[test]
fn an_image_loaded_from_a_docker_or_an_oci_archive_runs_without_a_registry() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    for format in ["docker-archive", "oci-archive"] {
        let file = machine.directory().join(format);
        let image = format!("docker.io/library/{format}:v1");
        write_archive(&storage().layout(), "v1", format, &file, &image);
        output_of(machine.segue("image load").arg(&file));
        let listed = output_of(&mut machine.segue("image list"));
        assert!(listed.contains(&image), "{image} is missing in\n{listed}");
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {format}}}\nspec:\n  containers: [{{name: app, image: '{image}'}}]\n"
        ));
        kubectl.run(&format!("wait pod/{format} --for=condition=Ready --timeout=60s"));
    }
    machine.down();
}

#[test]
fn an_archive_that_is_none_is_refused() {
    let machine = Machine::with_engine();
    let file = machine.directory().join("none");
    std::fs::write(&file, "not an archive").expect("a directory of ours");
    let before = output_of(&mut machine.segue("image list"));
    let said = run(machine.segue("image load").arg(&file), "");
    assert!(!said.success && said.stderr.contains("cannot read the archive"), "{}{}", said.stdout, said.stderr);
    assert_eq!(output_of(&mut machine.segue("image list")), before);
    machine.down();
}

/// Of an image that only the private registry has.
fn image() -> String {
    format!("private.example.com{}:v1", APP.trim_start_matches("registry.example.com"))
}

#[test]
fn a_private_registry_lets_in_whom_a_secret_or_docker_login_names() {
    let machine = Machine::without_engine();
    let private = machine.directory().join("private");
    let certificates = private.join(PRIVATE);
    std::fs::create_dir_all(&certificates).expect("a directory of ours");
    storage().serve_in_private(machine.namespace(), &certificates);
    let up = || {
        let mut up = machine.segue("up");
        up.args([
            "--detach",
            "--listen",
            "127.0.0.1:6443",
            "--mirror",
            &format!("private.example.com=https://{PRIVATE}"),
        ]);
        up.arg("--registry-certs").arg(&private).env("DOCKER_CONFIG", &private);
        output_of(&mut up);
    };
    up();
    let kubectl = machine.kubectl();
    let pod = |name: &str, more: &str| {
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: app, image: '{}', imagePullPolicy: Always}}]{more}}}\n",
            image()
        ));
    };
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    pod("nobody", ", imagePullSecrets: [{name: none}]");
    kubectl.wait_for("pod/nobody", waiting, "ImagePullBackOff");
    let events = kubectl.run("events --for pod/nobody");
    for sentence in ["does not allow pulling", "Unable to retrieve some image pull secrets (none)"] {
        assert!(events.contains(sentence), "{sentence:?} is missing in\n{events}");
    }
    let secret = |name: &str, password: &str| {
        kubectl.run(&format!(
            "create secret docker-registry {name} --docker-server={PRIVATE} --docker-username={USER} --docker-password={password}"
        ));
    };
    secret("wrong", "guessed");
    secret("right", PASSWORD);
    pod("guesses", ", imagePullSecrets: [{name: wrong}]");
    kubectl.wait_for("pod/guesses", waiting, "ImagePullBackOff");
    pod("knows", ", imagePullSecrets: [{name: wrong}, {name: right}]");
    kubectl.run("wait pod/knows --for=condition=Ready --timeout=60s");
    let login = format!("{{\"auths\": {{\"{PRIVATE}\": {{\"username\": \"{USER}\", \"password\": \"{PASSWORD}\"}}}}}}");
    std::fs::write(private.join("config.json"), login).expect("a directory of ours");
    pod("machine", "");
    kubectl.run("wait pod/machine --for=condition=Ready --timeout=60s");
    machine.down();
}

/// A pod that only names an image.
fn apply_pod(kubectl: &end_to_end::kubectl::Kubectl<'_>, name: &str, image: &str) {
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 1, containers: [{{name: app, image: '{image}', args: [], imagePullPolicy: IfNotPresent}}]}}\n"
    ));
    kubectl.run(&format!("wait pod/{name} --for=condition=Ready --timeout=60s"));
}

#[test]
fn a_full_disk_costs_what_nobody_uses_and_nothing_else() {
    const LOOKS: usize = 60;
    let machine = Machine::without_engine();
    let images = machine.data_dir().join("images");
    std::fs::create_dir_all(&images).expect("a directory of ours");
    let inside = |program: &str, arguments: &[&str]| {
        let mut command = machine.namespace().command(program);
        output_of(command.args(arguments).arg(&images))
    };
    inside("mount", &["-t", "tmpfs", "-o", "size=256m", "images"]);
    machine.up();
    let kubectl = machine.kubectl();
    let archive = machine.directory().join("loaded.tar");
    write_archive(&storage().layout(), "v2", "docker-archive", &archive, "docker.io/library/loaded:v2");
    output_of(machine.segue("image load").arg(&archive));
    let (gone, used) = (format!("{APP}:v1-exit"), format!("{APP}:v1"));
    apply_pod(&kubectl, "gone", &gone);
    apply_pod(&kubectl, "used", &used);
    kubectl.run("delete pod gone");
    let mut fill = machine.namespace().command("fallocate");
    output_of(fill.args(["-l", "210m"]).arg(images.join("fill")));
    let list = || output_of(&mut machine.segue("image list"));
    let is_removed = (0..LOOKS).any(|_| {
        output_of(machine.namespace().command("sleep").arg("5"));
        !list().contains(&gone)
    });
    let listed = list();
    assert!(is_removed && listed.contains(&used) && listed.contains("loaded:v2"), "{listed}");
    // What is left is whole, and what is gone comes back when somebody wants it.
    output_of(machine.namespace().command("rm").arg(images.join("fill")));
    kubectl.run("delete pod used");
    apply_pod(&kubectl, "again", &used);
    apply_pod(&kubectl, "loaded", "loaded:v2");
    apply_pod(&kubectl, "back", &gone);
    inside("umount", &["--lazy"]);
    machine.down();
}
