//! Images from archives, without a registry.

use end_to_end::images::write_archive;
use end_to_end::machine::Machine;
use end_to_end::registry::storage;
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
