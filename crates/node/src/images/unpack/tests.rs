use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tempfile::TempDir;

use super::*;
use crate::images::fixtures::{Tar, gzip, header};

/// A directory for layers, beside one that no layer may touch.
struct Place {
    directory: TempDir,
    outside: TempDir,
    limits: Limits,
}

impl Place {
    fn new() -> Place {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "untouched").unwrap();
        fs::create_dir(outside.path().join("deep")).unwrap();
        Place { directory: tempfile::tempdir().unwrap(), outside, limits: Limits::DEFAULT }
    }

    fn outside(&self) -> &str {
        self.outside.path().to_str().unwrap()
    }

    fn layer(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn unpack_bytes(&self, bytes: &[u8], name: &str, below: &[&str]) -> Result<Unpacked, UnpackError> {
        let below: Vec<PathBuf> = below.iter().map(|name| self.layer(name)).collect();
        unpack(file_with(bytes), &self.new_layer(name), &below, &self.limits)
    }

    fn new_layer(&self, name: &str) -> PathBuf {
        let path = self.layer(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn unpack(&self, tar: Tar, name: &str, below: &[&str]) -> Result<Unpacked, UnpackError> {
        self.unpack_bytes(&tar.bytes(), name, below)
    }

    /// Unpacks one layer and answers its directory.
    fn tree(&self, tar: Tar) -> PathBuf {
        self.unpack(tar, "layer", &[]).unwrap();
        self.layer("layer")
    }

    fn refusal(&self, tar: Tar) -> UnpackError {
        let error = self.unpack(tar, "layer", &[]).unwrap_err();
        self.assert_outside_is_untouched();
        error
    }

    fn assert_outside_is_untouched(&self) {
        assert_eq!(names(self.outside.path()), ["deep", "secret"]);
        assert!(names(&self.outside.path().join("deep")).is_empty());
        let secret = self.outside.path().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
        let metadata = fs::metadata(&secret).unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (1, 0o644));
    }
}

fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    merged::is_opaque(merged::open_tree(path).unwrap()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn hostile_dot_dot_in_a_name_is_refused() {
    let place = Place::new();
    let error = place.refusal(Tar::default().file("a/../../secret", b"owned"));
    assert!(matches!(error, UnpackError::Escape { .. }), "{error}");
}

#[test]
fn hostile_absolute_name_stays_inside() {
    let place = Place::new();
    let name = format!("{}/secret", place.outside());
    let tree = place.tree(Tar::default().file(&name, b"owned"));
    place.assert_outside_is_untouched();
    assert_eq!(fs::read(tree.join(&name[1..])).unwrap(), b"owned");
}

#[test]
fn hostile_write_through_an_absolute_symlink_stays_inside() {
    let place = Place::new();
    let tar = Tar::default().symlink("link", place.outside()).file("link/secret", b"owned");
    let tree = place.tree(tar);
    place.assert_outside_is_untouched();
    let inside = tree.join(&place.outside()[1..]).join("secret");
    assert_eq!(fs::read(inside).unwrap(), b"owned");
}

#[test]
fn hostile_write_through_a_climbing_symlink_stays_inside() {
    let place = Place::new();
    let target = format!("{}{}", "../".repeat(10), &place.outside()[1..]);
    let tar = Tar::default().symlink("link", &target).file("link/secret", b"owned");
    place.tree(tar);
    place.assert_outside_is_untouched();
}

#[test]
fn hostile_write_below_a_linked_directory_stays_inside() {
    for climb in ["/", "../../../../../../../../"] {
        let place = Place::new();
        let target = format!("{climb}{}", &place.outside()[1..]);
        let tree = place.tree(Tar::default().symlink("link", &target).file("link/deep/owned", b"owned"));
        place.assert_outside_is_untouched();
        let inside = tree.join(&place.outside()[1..]).join("deep/owned");
        assert_eq!(fs::read(inside).unwrap(), b"owned", "{target}");
    }
}

#[test]
fn hostile_hard_link_below_a_linked_directory_finds_nothing() {
    let place = Place::new();
    fs::write(place.outside.path().join("deep/secret"), "untouched").unwrap();
    let tar = Tar::default().symlink("link", place.outside()).hard_link("a", "link/deep/secret");
    let error = place.unpack(tar, "layer", &[]).unwrap_err();
    assert!(matches!(error, UnpackError::LinkTarget { .. }), "{error}");
}

#[test]
fn links_lead_where_they_lead_inside_the_image() {
    let place = Place::new();
    let tar = Tar::default()
        .symlink("a/absolute", "/target")
        .symlink("a/relative", "../target/./x")
        .file("a/absolute/1", b"")
        .file("a/relative/2", b"");
    let tree = place.tree(tar);
    assert!(tree.join("target/1").is_file() && tree.join("target/x/2").is_file());
}

#[test]
fn hostile_file_in_place_of_a_symlink_is_refused() {
    let place = Place::new();
    let target = format!("{}/secret", place.outside());
    let error = place.refusal(Tar::default().symlink("a", &target).file("a", b"owned"));
    assert!(matches!(error, UnpackError::Duplicate { .. }), "{error}");
}

#[test]
fn hostile_directory_in_place_of_a_symlink_is_refused() {
    let place = Place::new();
    let tar = Tar::default().symlink("a", place.outside()).directory("a", 0o777);
    let error = place.refusal(tar);
    assert!(matches!(error, UnpackError::Duplicate { .. }), "{error}");
}

#[test]
fn hostile_hard_link_with_dot_dot_is_refused() {
    let place = Place::new();
    let target = format!("{}{}/secret", "../".repeat(10), &place.outside()[1..]);
    let error = place.refusal(Tar::default().hard_link("a", &target));
    assert!(matches!(error, UnpackError::Escape { .. }), "{error}");
}

#[test]
fn hostile_hard_link_through_a_symlink_finds_nothing() {
    let place = Place::new();
    let tar = Tar::default().symlink("link", place.outside()).hard_link("a", "link/secret");
    let error = place.refusal(tar);
    assert!(matches!(error, UnpackError::LinkTarget { .. }), "{error}");
}

#[test]
fn hostile_write_through_a_hard_link_to_a_symlink_is_refused() {
    let place = Place::new();
    let target = format!("{}/secret", place.outside());
    let tar = Tar::default().symlink("a", &target).hard_link("b", "a").file("b", b"owned");
    let error = place.refusal(tar);
    assert!(matches!(error, UnpackError::Duplicate { .. }), "{error}");
}

#[test]
fn hostile_whiteout_through_a_symlink_stays_inside() {
    let place = Place::new();
    let tar = Tar::default().symlink("link", place.outside()).file("link/.wh.secret", b"");
    let tree = place.tree(tar);
    place.assert_outside_is_untouched();
    assert!(is_whiteout(&tree.join(&place.outside()[1..]).join("secret")));
}

#[test]
fn hostile_opaque_mark_through_a_symlink_stays_inside() {
    let place = Place::new();
    let tar = Tar::default().symlink("link", place.outside()).file("link/.wh..wh..opq", b"");
    place.tree(tar);
    assert!(!is_opaque(place.outside.path()));
}

#[test]
fn hostile_link_in_a_layer_below_is_followed_inside_the_image() {
    let place = Place::new();
    let below = Tar::default().symlink("link", place.outside());
    place.unpack(below, "below", &[]).unwrap();
    let above = Tar::default().file("link/secret", b"owned");
    place.unpack(above, "above", &["below"]).unwrap();
    place.assert_outside_is_untouched();
    let inside = place.layer("above").join(&place.outside()[1..]).join("secret");
    assert_eq!(fs::read(inside).unwrap(), b"owned");
}

#[test]
fn hostile_whiteout_of_dot_dot_is_refused() {
    let place = Place::new();
    let error = place.refusal(Tar::default().file("a/.wh...", b""));
    assert!(matches!(error, UnpackError::Name { .. }), "{error}");
}

#[test]
fn hostile_overlay_attributes_are_not_taken_over() {
    let place = Place::new();
    let tar = Tar::default()
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .directory("a", 0o755);
    let tree = place.tree(tar);
    assert!(!is_opaque(&tree.join("a")));
    let directory = merged::open_tree(&tree.join("a")).unwrap();
    let redirect = rustix::fs::fgetxattr(directory, "trusted.overlay.redirect", &mut [0_u8; 8][..]);
    assert_eq!(redirect, Err(rustix::io::Errno::NODATA));
}

#[test]
fn hostile_device_that_looks_like_a_whiteout_is_refused() {
    let place = Place::new();
    let error = place.refusal(Tar::default().node(EntryType::Char, "a", 0, 0));
    assert!(matches!(error, UnpackError::Name { .. }), "{error}");
}

#[test]
fn hostile_loop_of_links_is_refused() {
    let place = Place::new();
    let tar = Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    let error = place.refusal(tar);
    assert!(matches!(error, UnpackError::Parent { .. }), "{error}");
}

#[test]
fn hostile_owner_that_means_unchanged_is_refused() {
    let place = Place::new();
    let mut header = header(EntryType::Regular, 0o4755);
    header.set_uid(u64::from(u32::MAX));
    let error = place.refusal(Tar::default().entry(&header, b"a", b"", b""));
    assert!(matches!(error, UnpackError::Owner { .. }), "{error}");
}

#[test]
fn hostile_compressed_bomb_stops_at_the_limit() {
    let mut place = Place::new();
    place.limits.unpacked_bytes = 1 << 20;
    let bomb = gzip(&Tar::default().file("zeros", &vec![0; 8 << 20]).bytes());
    let error = place.unpack_bytes(&bomb, "layer", &[]).unwrap_err();
    assert!(matches!(error, UnpackError::TooManyBytes { .. }), "{error}");
    assert!(fs::metadata(place.layer("layer").join("zeros")).unwrap().len() <= 1 << 20);
}

#[test]
fn hostile_sparse_file_stops_at_the_limit() {
    let mut place = Place::new();
    place.limits.unpacked_bytes = 1 << 20;
    let mut header = header(EntryType::GNUSparse, 0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 40);
    gnu.sparse[0].set_offset(1 << 40);
    gnu.sparse[0].set_length(0);
    let error = place.refusal(Tar::default().entry(&header, b"holes", b"", b""));
    assert!(matches!(error, UnpackError::TooManyBytes { .. }), "{error}");
}

#[test]
fn hostile_long_name_stops_at_the_limit() {
    let mut place = Place::new();
    place.limits.header_bytes = 64 << 10;
    let name = vec![b'a'; 1 << 20];
    let tar = Tar::default().entry(&header(EntryType::GNULongName, 0o644), b"././@LongLink", b"", &name).file("a", b"");
    let error = place.refusal(tar);
    assert!(matches!(error, UnpackError::HeadersTooLong { .. }), "{error}");
}

#[test]
fn hostile_number_of_entries_stops_at_the_limit() {
    let mut place = Place::new();
    place.limits.layer_entries = 2;
    let tar = Tar::default().file("a", b"").file("b", b"").file("c", b"");
    let error = place.refusal(tar);
    assert!(matches!(error, UnpackError::TooManyEntries { limit: 2 }), "{error}");
}

#[test]
fn hostile_depth_of_directories_stops_at_the_limit() {
    let mut place = Place::new();
    place.limits.directory_path_bytes = 1000;
    let error = place.refusal(Tar::default().file(&format!("{}x", "d/".repeat(48)), b""));
    assert!(matches!(error, UnpackError::TooManyDirectories { limit: 1000 }), "{error}");
}

#[test]
fn hostile_directories_that_no_entry_names_are_counted() {
    let mut place = Place::new();
    place.limits.layer_entries = 10;
    let error = place.refusal(Tar::default().file("a/b/c/d/e/f/g/h/i/j/k/l", b""));
    assert!(matches!(error, UnpackError::TooManyEntries { limit: 10 }), "{error}");
}

#[test]
fn a_file_twice_in_one_layer_is_refused_by_name() {
    let place = Place::new();
    let error = place.refusal(Tar::default().file("a/b", b"1").file("./a//b", b"2"));
    assert_eq!(error.to_string(), "\"./a//b\" occurs twice in one layer");
}

#[test]
fn a_file_below_a_file_is_refused() {
    let place = Place::new();
    let error = place.refusal(Tar::default().file("a", b"").file("a/b", b""));
    assert!(matches!(error, UnpackError::Parent { .. }), "{error}");
}

#[test]
fn a_file_in_place_of_the_root_is_refused() {
    let place = Place::new();
    let error = place.refusal(Tar::default().file("./", b""));
    assert!(matches!(error, UnpackError::Name { .. }), "{error}");
}

#[test]
fn a_truncated_stream_is_refused() {
    let place = Place::new();
    let whole = Tar::default().file("a", &[7; 2000]).bytes();
    let error = place.unpack_bytes(&whole[..1024], "layer", &[]).unwrap_err();
    assert!(matches!(error, UnpackError::Tar { .. } | UnpackError::Content { .. }), "{error}");
}

#[test]
fn the_diff_id_is_of_the_plain_stream_whatever_the_compression() {
    let plain = Tar::default().file("a", b"content").bytes();
    let (first, second) = plain.split_at(700);
    let several_members = [gzip(first), gzip(second)].concat();
    let zstd = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
    for stream in [plain.clone(), gzip(&plain), several_members, zstd] {
        let place = Place::new();
        let unpacked = place.unpack_bytes(&stream, "layer", &[]).unwrap();
        assert_eq!(unpacked.diff_id, Digest::of(&plain));
        assert_eq!(unpacked.bytes, plain.len() as u64);
        assert_eq!(fs::read(place.layer("layer").join("a")).unwrap(), b"content");
    }
}

#[test]
fn owners_modes_and_times_are_kept() {
    let place = Place::new();
    let mut owned = header(EntryType::Regular, 0o4755);
    owned.set_uid(1234);
    owned.set_gid(5678);
    let tar = Tar::default()
        .directory("d", 0o1777)
        .entry(&owned, b"d/setuid", b"", b"x")
        .directory("closed", 0o000)
        .file("closed/inside", b"y");
    let tree = place.tree(tar);
    let setuid = fs::metadata(tree.join("d/setuid")).unwrap();
    assert_eq!((setuid.uid(), setuid.gid()), (1234, 5678));
    assert_eq!(setuid.mtime(), 1_000_000);
    assert_eq!(mode(&tree.join("d/setuid")), 0o4755);
    assert_eq!(mode(&tree.join("d")), 0o1777);
    assert_eq!(fs::metadata(tree.join("d")).unwrap().mtime(), 1_000_000);
    assert_eq!(mode(&tree.join("closed")), 0o000);
    assert_eq!(mode(&tree), 0o755);
}

#[test]
fn file_capabilities_survive_the_change_of_owner() {
    let place = Place::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut owned = header(EntryType::Regular, 0o755);
    owned.set_uid(1000);
    let tar =
        Tar::default().pax(&[("SCHILY.xattr.security.capability", &capability)]).entry(&owned, b"ping", b"", b"x");
    let tree = place.tree(tar);
    let file = File::open(tree.join("ping")).unwrap();
    let mut value = [0_u8; 64];
    let length = rustix::fs::fgetxattr(file, "security.capability", &mut value[..]).unwrap();
    assert_eq!(value[..length], capability);
}

#[test]
fn links_fifos_and_devices_are_made() {
    let place = Place::new();
    let tar = Tar::default()
        .file("a", b"1")
        .hard_link("dir/b", "/a")
        .symlink("c", "/etc/passwd")
        .node(EntryType::Fifo, "fifo", 0, 0)
        .node(EntryType::Char, "null", 1, 3);
    let tree = place.tree(tar);
    let inode = |name: &str| fs::symlink_metadata(tree.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("dir/b"));
    assert_eq!(fs::read_link(tree.join("c")).unwrap(), Path::new("/etc/passwd"));
    let fifo = fs::symlink_metadata(tree.join("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    let null = fs::symlink_metadata(tree.join("null")).unwrap();
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(mode(&tree.join("null")), 0o640);
}

#[test]
fn deletions_become_overlay_marks() {
    let place = Place::new();
    let tar = Tar::default()
        .file("etc/.wh.gone", b"")
        .file("var/cache/.wh..wh..opq", b"")
        .file("var/cache/new", b"")
        .file(".wh..wh.plnk/1.2", b"");
    let tree = place.tree(tar);
    assert!(is_whiteout(&tree.join("etc/gone")));
    assert!(!tree.join("etc/.wh.gone").exists());
    assert!(is_opaque(&tree.join("var/cache")));
    assert!(tree.join("var/cache/new").is_file());
    assert!(!tree.join(".wh..wh.plnk").exists());
}

#[test]
fn a_deletion_spares_what_the_same_layer_brings() {
    let place = Place::new();
    let tar = Tar::default()
        .file("a", b"kept")
        .file(".wh.a", b"")
        .file("d/x", b"kept")
        .file(".wh.d", b"")
        .file(".wh.e", b"")
        .file("e/y", b"kept")
        .file(".wh.f", b"")
        .file("f", b"kept");
    let tree = place.tree(tar);
    for name in ["a", "d/x", "e/y", "f"] {
        assert_eq!(fs::read(tree.join(name)).unwrap(), b"kept", "{name}");
    }
    assert!(is_opaque(&tree.join("d")) && is_opaque(&tree.join("e")));
}

#[test]
fn an_opaque_root_deletes_each_name_below() {
    let place = Place::new();
    place.unpack(Tar::default().file("old", b"").file("etc/x", b""), "below", &[]).unwrap();
    let tar = Tar::default().file(".wh..wh..opq", b"").file("etc/y", b"");
    place.unpack(tar, "above", &["below"]).unwrap();
    assert!(is_whiteout(&place.layer("above").join("old")));
    assert!(is_opaque(&place.layer("above").join("etc")));
}

#[test]
fn directories_that_a_layer_leaves_out_look_as_in_the_layer_below() {
    let place = Place::new();
    let mut home = header(EntryType::Directory, 0o700);
    home.set_uid(1000);
    let below = Tar::default().directory("./", 0o711).directory("tmp", 0o1777).entry(&home, b"home", b"", b"");
    place.unpack(below, "below", &[]).unwrap();
    let above = Tar::default().file("tmp/x", b"").file("home/y", b"");
    place.unpack(above, "above", &["below"]).unwrap();
    let tree = place.layer("above");
    assert_eq!(mode(&tree), 0o711);
    assert_eq!(mode(&tree.join("tmp")), 0o1777);
    assert_eq!(mode(&tree.join("home")), 0o700);
    assert_eq!(fs::metadata(tree.join("home")).unwrap().uid(), 1000);
}

#[test]
fn a_linked_directory_of_a_layer_below_is_not_covered_up() {
    let place = Place::new();
    let below = Tar::default().directory("usr/lib", 0o755).symlink("lib", "usr/lib");
    place.unpack(below, "below", &[]).unwrap();
    let above = Tar::default().file("lib/new.so", b"elf");
    place.unpack(above, "above", &["below"]).unwrap();
    let tree = place.layer("above");
    assert!(!tree.join("lib").exists());
    assert_eq!(fs::read(tree.join("usr/lib/new.so")).unwrap(), b"elf");
}

#[test]
fn a_hard_link_to_a_layer_below_brings_a_copy() {
    let place = Place::new();
    place.unpack(Tar::default().file("bin/tool", b"tool"), "below", &[]).unwrap();
    let above = Tar::default().hard_link("bin/alias", "bin/tool");
    place.unpack(above, "above", &["below"]).unwrap();
    let tree = place.layer("above");
    assert_eq!(fs::read(tree.join("bin/alias")).unwrap(), b"tool");
    let inode = |name: &str| fs::metadata(tree.join(name)).unwrap().ino();
    assert_eq!(inode("bin/alias"), inode("bin/tool"));
}

#[test]
fn a_hard_link_to_a_deleted_file_is_refused() {
    let place = Place::new();
    place.unpack(Tar::default().file("bin/tool", b"tool"), "below", &[]).unwrap();
    place.unpack(Tar::default().file(".wh.bin", b""), "middle", &["below"]).unwrap();
    let above = Tar::default().hard_link("alias", "bin/tool");
    let error = place.unpack(above, "above", &["below", "middle"]).unwrap_err();
    assert!(matches!(error, UnpackError::LinkTarget { .. }), "{error}");
}
