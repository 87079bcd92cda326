//! How much an image may ask of this machine. Images come from strangers; these bounds stop the ones that are
//! built to fill the disk or the memory.

/// Bounds on one image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of a manifest, an index or a configuration. All are held in memory.
    pub(crate) document_bytes: u64,
    /// Bytes of one blob as it is transferred.
    pub(crate) blob_bytes: u64,
    pub(crate) layers: usize,
    /// Bytes of all layers of an image after decompression.
    pub(crate) unpacked_bytes: u64,
    /// Entries of one layer, and directories in it.
    pub(crate) layer_entries: u64,
    /// Bytes of the paths of a layer's directories, which are held in memory until all have their attributes.
    pub(crate) directory_path_bytes: usize,
    /// Bytes of headers before one tar entry (long names, extended attributes), which are held in memory.
    pub(crate) header_bytes: u64,
}

impl Limits {
    pub(crate) const DEFAULT: Limits = Limits {
        // What registries accept for a manifest.
        document_bytes: 4 << 20,
        // Twice the 10 GiB that the common public registries accept for a layer.
        blob_bytes: 20 << 30,
        // The kernel stacks at most 500 lower directories in one overlay.
        layers: 500,
        // Twice the largest images in common use, which carry machine learning frameworks.
        unpacked_bytes: 64 << 30,
        // Several times the files of a full desktop distribution.
        layer_entries: 2_000_000,
        // Half a million directories with paths of 128 bytes.
        directory_path_bytes: 64 << 20,
        // The kernel allows 64 KiB of value for an extended attribute; sixteen full ones fit.
        header_bytes: 1 << 20,
    };
}
