//! `segue demo`: an engine of its own, the bundled app as a real image made on the spot, and the story that `tools`
//! tells on them. It needs nothing that runs on the machine and leaves nothing behind.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use decide::images::ImageReference;
use node::images::ImageStore;
use node::images::build::{FileContent, NewFile, NewImage};
use objects::ranges::Range;
use tools::demo::{Image, Images, Stage};

use crate::cli::Up;
use crate::engine::Engine;
use crate::preflight;
use crate::settings::Directories;
use crate::show;

/// The app's name in its images.
const REPOSITORY: &str = "segue.dev/demo-app";

/// Where the program lies in the image.
const PROGRAM: &str = "/segue";

/// Ranges that are tried for the demo's engine, pods first: out of the way of Segue's own defaults and of usual ones.
const RANGES: [(&str, &str); 4] = [
    ("10.46.0.0/16", "10.47.0.0/16"),
    ("10.48.0.0/16", "10.49.0.0/16"),
    ("172.29.0.0/17", "172.29.128.0/17"),
    ("192.168.240.0/21", "192.168.248.0/21"),
];

/// Tells the whole story; an error when anything in it was not as it should be, or something is left behind.
#[tokio::main]
pub(crate) async fn demo() -> anyhow::Result<()> {
    preflight::check_machine()?;
    let folder = Folder::make()?;
    let options = options(&folder.0)?;
    show::line("Making an image of the bundled app, and starting an engine of its own");
    let images = make_images(&Directories::find(&folder.0)?.images()).await?;
    let mut engine = Engine::start(&options).await?;
    engine.wait_until_ready().await?;
    let told = tokio::select! {
        told = tools::demo::play(Stage { client: engine.client(), images }) => told.map(drop).map_err(anyhow::Error::from),
        broken = engine.watch_parts() => Err(broken),
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    show::line("Taking everything down");
    let stopped = engine.stop_everything(&mut async |_: String| {}).await;
    told.and(stopped)
}

/// A data directory that goes when the demo ends, however it ends.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("segue-demo-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "could not remove the demo's data directory");
        }
    }
}

/// Options for an engine beside whatever runs here: a free port and free ranges.
fn options(data_dir: &Path) -> anyhow::Result<Up> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let (pods, services) = free_ranges(&Directories::find(data_dir)?)?;
    let data_dir = data_dir.to_string_lossy();
    let (listen, pods, services) = (free.to_string(), pods.to_string(), services.to_string());
    // It is over before it could fill anything, and is to be seen on a laptop whose disk is nearly full too.
    let eviction = "nodefs.available<1%";
    let options = ["--data-dir", &data_dir, "--listen", &listen, "--pod-cidr", &pods, "--service-cidr", &services];
    let options = options.into_iter().chain(["--eviction-hard", eviction]);
    Ok(Up::of(&options.map(OsString::from).collect::<Vec<_>>()))
}

fn free_ranges(directories: &Directories) -> anyhow::Result<(Range, Range)> {
    let mut complaint = None;
    for (pods, services) in RANGES {
        let (pods, services): (Range, Range) = (pods.parse()?, services.parse()?);
        let instance = directories.instance.clone();
        let links = node::link_prefix(&instance);
        match network::preflight::check(&network::rules::Rules { instance, links, pods, services, mesh_port: 745 }) {
            Ok(()) => return Ok((pods, services)),
            Err(error) => complaint = Some(error),
        }
    }
    let complaint = complaint.map(anyhow::Error::from).unwrap_or_else(|| anyhow::anyhow!("no range is known"));
    Err(complaint.context("none of the demo's address ranges is free"))
}

/// Writes the app's three versions as OCI archives and loads them, as `segue image load` would.
async fn make_images(directory: &Path) -> anyhow::Result<Images> {
    fs::create_dir_all(directory)?;
    let store = ImageStore::open(directory)?;
    let files = program_files()?;
    Ok(Images {
        first: make_image(&store, &files, "v1", &[]).await?,
        second: make_image(&store, &files, "v2", &[]).await?,
        broken: make_image(&store, &files, "v3", &["NEVER_READY=true"]).await?,
    })
}

async fn make_image(
    store: &ImageStore,
    files: &[NewFile],
    version: &str,
    environment: &[&str],
) -> anyhow::Result<Image> {
    let name = format!("{REPOSITORY}:{version}");
    let mut image = NewImage::named(ImageReference::parse(&name)?);
    image.files = files.to_vec();
    image.entrypoint = vec![PROGRAM.to_owned(), "app".to_owned()];
    image.env =
        [format!("VERSION={version}")].into_iter().chain(environment.iter().map(|&set| set.to_owned())).collect();
    image.exposed_ports = vec!["8080/tcp".to_owned(), "9090/tcp".to_owned()];
    image.user = "65534:65534".to_owned();
    let mut archive = tempfile::tempfile()?;
    archive = tokio::task::spawn_blocking(move || image.write_archive(&archive).map(|_| archive)).await??;
    archive.seek(SeekFrom::Start(0))?;
    let archive: File = archive;
    store.load(archive).await?;
    Ok(Image { reference: name, version: version.to_owned() })
}

/// This program and the shared libraries that it runs with, which the kernel lists.
fn program_files() -> anyhow::Result<Vec<NewFile>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let program = fs::read_link("/proc/self/exe")?;
    let mapped: BTreeSet<&str> = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    let libraries =
        mapped.into_iter().map(Path::new).filter(|path| path.is_absolute() && *path != program && path.is_file());
    let copy = |from: &Path, path: &Path| NewFile {
        path: path.to_owned(),
        mode: 0o755,
        content: FileContent::CopyOf(from.to_owned()),
    };
    let mut files = vec![copy(Path::new("/proc/self/exe"), Path::new(PROGRAM))];
    for library in libraries {
        files.push(copy(library, library));
    }
    files.extend(loader().map(|path| copy(&path, &path)));
    Ok(files)
}

/// The dynamic loader under the name that the program asks for it, which is a link to the file that is mapped.
fn loader() -> Option<PathBuf> {
    let names = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    names.into_iter().map(PathBuf::from).find(|path| path.exists())
}
