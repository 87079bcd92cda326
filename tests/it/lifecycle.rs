//! An engine comes, goes, and comes back.

use end_to_end::document::{Document, NAME};
use end_to_end::images::SHELL;
use end_to_end::machine::Machine;
use end_to_end::outside::assert_nothing_lost;
use end_to_end::paths::tool;
use end_to_end::processes;
use end_to_end::run::{output_of, run};

#[test]
fn an_engine_that_goes_down_leaves_nothing_behind_and_brings_back_the_same_pods() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let before = document.standing();
    machine.down();
    assert!(machine.data_dir().join("store.db").exists(), "the data directory stays");

    machine.up();
    document.rolled_out();
    let after = document.standing();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "the same Pod objects");
    for (uid, pod) in &after {
        assert_eq!(pod.restarts, before[uid].restarts + 1, "{pod:?}");
        assert!(pod.ready && pod.container != before[uid].container, "{pod:?}");
    }
    let mut load = document.load();
    load.answered(240);
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    machine.down();
}

#[test]
fn purging_removes_the_data_directory_too() {
    let machine = Machine::with_engine();
    let _document = Document::deployed(&machine, "v1");
    output_of(machine.segue("down").arg("--purge"));
    machine.left_behind().assert_nothing();
    assert!(!machine.data_dir().exists(), "{} is still there", machine.data_dir().display());
}

#[test]
fn going_down_drains_what_is_in_flight() {
    let machine = Machine::with_engine();
    let _document = Document::deployed(&machine, "v1");
    let address = machine.service_address(NAME);
    let answer = std::thread::scope(|scope| {
        let mut slow = machine.outside().namespace().in_network("busybox");
        slow.args(["wget", "-q", "-O", "-", &format!("http://{address}/slow?ms=3000&nonce=kept")]);
        let asking = scope.spawn(move || output_of(&mut slow));
        let connections = "until ss -Htn state established dport = :80 | grep -q .; do :; done";
        output_of(machine.outside().namespace().in_network("bash").args(["-c", connections]));
        machine.down();
        asking.join().expect("it was answered")
    });
    assert!(answer.contains("nonce kept"), "{answer}");
}

#[test]
fn a_killed_proxy_and_a_killed_keeper_are_replaced() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    for role in ["proxy", "keeper"] {
        let found = processes::in_role(machine.namespace(), role);
        let [process] = &found[..] else { panic!("one {role}, not {found:?}") };
        process.kill();
        let mut load = document.load();
        load.answered(240);
        let report = load.stop();
        assert_eq!(report.failures(), 0, "after the {role} was killed new connections are served:\n{report}");
    }
    document.roll_to("v2");
    machine.down();
}

#[test]
fn a_backup_of_a_running_engine_brings_everything_back_elsewhere() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.run("create configmap settings --from-literal=colour=green");
    kubectl.run("create secret generic keys --from-literal=token=hunter2");
    let (with, without) = (machine.directory().join("with.tar"), machine.directory().join("without.tar"));
    let said = output_of(machine.segue("backup --with-key").arg(&with));
    assert!(said.contains("backed up ") && !said.contains("which is not in it"), "{said}");
    let said = output_of(machine.segue("backup").arg(&without));
    assert!(said.contains("store.key, which is not in it"), "{said}");
    for archive in [&with, &without] {
        let bytes = std::fs::read(archive).expect("it was written");
        assert!(!bytes.windows(7).any(|part| part == b"hunter2" || part == b"aHVudGV"), "a Secret can be read");
    }
    kubectl.run("delete configmap settings");
    kubectl.run("create configmap later --from-literal=a=b");
    let audit = std::fs::read_to_string(machine.data_dir().join("audit.log")).expect("the engine writes it");
    let verbs = |name: &str| {
        let lines = audit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let about =
            lines.filter(|line| line["objectRef"]["name"] == name || line["requestURI"].to_string().contains(name));
        about.map(|line| (line["verb"].to_string(), line["user"]["username"].to_string())).collect::<Vec<_>>()
    };
    assert_eq!(verbs("settings"), [("\"delete\"".to_owned(), "\"segue-admin\"".to_owned())]);

    let refused = run(machine.segue("restore").arg(&with), "");
    assert!(refused.stderr.contains("end them with `segue down` first"), "{}", refused.stderr);
    machine.down();
    let refused = run(machine.segue("restore").arg(&with), "");
    assert!(refused.stderr.contains("--replace moves it aside"), "{}", refused.stderr);
    // As a restore that is interrupted leaves it.
    let (store, aside) = (machine.data_dir().join("store.db"), machine.data_dir().join("store.db.before-restore"));
    std::fs::rename(&store, &aside).expect("nothing uses it");
    let refused = machine.try_up(&[]);
    let said = refused.stdout + &refused.stderr;
    assert!(!refused.success && said.contains("was interrupted: finish it"), "{said}");
    assert!(!store.exists(), "an engine began anew");
    std::fs::rename(&aside, &store).expect("nothing uses it");
    output_of(machine.segue("restore --replace").arg(&without));
    // As on a new machine, which has no key either.
    std::fs::remove_dir_all(machine.data_dir()).expect("nothing uses it");
    let refused = run(machine.segue("restore").arg(&without), "");
    assert!(refused.stderr.contains("put it back from where you keep it"), "{}", refused.stderr);
    output_of(machine.segue("restore").arg(&with));
    machine.up();
    let kubectl = machine.kubectl();
    assert_eq!(kubectl.json("get configmap settings")["data"]["colour"], "green");
    assert_eq!(kubectl.json("get secret keys")["data"]["token"], "aHVudGVyMg==");
    assert!(kubectl.fails("get configmap later").contains("not found"));
    machine.down();
}

/// Sends requests that make ConfigMaps, and hangs up before, while and after they are worked on.
const HANGS_UP: &str = r#"
import base64, json, socket, ssl, sys, time
config = json.loads(sys.stdin.read())
server = config["clusters"][0]["cluster"]
user = config["users"][0]["user"]
for name in ["client-certificate-data", "client-key-data"]:
    open(name, "wb").write(base64.b64decode(user[name]))
tls = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
tls.load_cert_chain("client-certificate-data", "client-key-data")
host, port = server["server"].removeprefix("https://").split(":")
for number in range(100):
    body = json.dumps({"metadata": {"name": f"hung-up-{number}"}})
    with tls.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as connection:
        head = f"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        time.sleep(number * 0.0005)
"#;

#[test]
fn what_clients_that_hang_up_changed_is_in_the_audit_log() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let config = kubectl.run("config view --raw -o json");
    let mut python = machine.namespace().in_network("python3");
    let said = run(python.args(["-c", HANGS_UP]).current_dir(machine.directory()), &config);
    assert!(said.success, "{}", said.stderr);
    machine.down();
    machine.up();
    let made = kubectl.run("get configmaps -o name").matches("hung-up-").count();
    let audit = std::fs::read_to_string(machine.data_dir().join("audit.log")).expect("the engine writes it");
    let lines = audit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let written = lines.filter(|line| {
        line["verb"] == "create" && line["responseStatus"]["code"] == 201 && line.to_string().contains("configmaps")
    });
    assert_eq!(written.count(), made);
    assert!(made > 0, "no request was heard");
    machine.down();
}

#[test]
fn a_machine_that_loses_its_power_brings_its_pods_back_with_what_they_had_on_disk() {
    let mut machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let before = document.standing();
    machine.kubectl().apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: counts}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: shell\n    image: {SHELL}\n    args: [-c, 'echo started >> /kept/starts; sleep 600']\n    volumeMounts: [{{name: kept, mountPath: /kept}}]\n  \
         volumes: [{{name: kept, emptyDir: {{}}}}]\n"
    ));
    machine.kubectl().wait_for("pod/counts", ".status.phase", "Running");
    machine.reboot();
    machine.up();
    let document = Document::of(&machine);
    document.rolled_out();
    let after = document.standing();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "the same Pod objects");
    let kubectl = machine.kubectl();
    kubectl.wait_for("pod/counts", ".status.containerStatuses[0].restartCount", "1");
    kubectl.wait_for("pod/counts", ".status.containerStatuses[0].ready", "true");
    assert_eq!(kubectl.run("exec counts -- cat /kept/starts"), "started\nstarted\n");
    let last = kubectl.json("get pod counts")["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert_eq!((&last["exitCode"], &last["reason"]), (&137.into(), &"ContainerStatusUnknown".into()), "{last}");
    machine.down();
}

/// Shims, keeper, proxy and store of the version that `tests/former` builds.
#[test]
fn what_a_former_version_left_goes_on_under_this_one() {
    let machine = Machine::without_engine();
    let former = tool("former/segue");
    // The former version can't be told when a disk is short.
    machine.mount_data("2g");
    let said = machine.try_up_of(&former, &[]);
    assert!(said.success, "the former segue did not come up:\n{}{}", said.stdout, said.stderr);
    machine.fetch_kubeconfig();
    let kubectl = machine.kubectl();
    kubectl.run("create secret generic keys --from-literal=token=hunter2");
    let document = Document::deployed(&machine, "v1");
    // The former version refused to mount a part of a volume.
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: part}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: shell\n    image: {SHELL}\n    args: [-c, 'sleep 600']\n    volumeMounts: [{{name: all, mountPath: /part, subPath: part}}]\n  \
         volumes: [{{name: all, emptyDir: {{}}}}]\n"
    ));
    kubectl.wait_for("pod/part", ".status.containerStatuses[0].state.waiting.reason", "CreateContainerConfigError");
    let before = document.standing();
    let mut load = document.load();
    load.answered(240);

    machine.kill_engine();
    machine.up();
    load.answered(240);
    assert_eq!(before, document.standing(), "no pod was replaced or restarted");
    assert_eq!(kubectl.json("get secret keys")["data"]["token"], "aHVudGVyMg==");
    kubectl.wait_for("pod/part", ".status.containerStatuses[0].state.waiting.reason", "CreateContainerError");
    let waiting = kubectl.json("get pod part")["status"]["containerStatuses"][0]["state"]["waiting"].to_string();
    assert!(waiting.contains("an earlier Segue made this pod"), "{waiting}");
    assert_eq!(kubectl.run(&format!("exec -n production deploy/{NAME} -- /bin/sh -c pwd")), "/\n");

    document.roll_to("v2");
    load.answered(240);
    assert_nothing_lost(&load.stop(), &["v1", "v2"]);
    kubectl.run("delete pod part");
    let mut search = machine.namespace().command("grep");
    let found = run(search.args(["-c", "hunter2\\|aHVudGV"]).arg(machine.data_dir().join("store.db")), "");
    assert_eq!(found.stdout.trim(), "0", "a Secret can be read: {}", found.stderr);
    machine.down_and_unmount();
}
