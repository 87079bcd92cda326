//! `segue image`: images from an archive, and which there are.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use node::images::{Image, ImageStore};
use serde_json::json;

use crate::cli::{DataDirectory, Output};
use crate::settings::Directories;
use crate::show;

/// The word for standard input.
const STANDARD_INPUT: &str = "-";

/// Loads every image of an archive. The store may be in use by an engine meanwhile.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn load(file: &Path, directory: &DataDirectory) -> anyhow::Result<()> {
    let store = open(directory)?;
    let archive: Box<dyn Read + Send> = match file.to_str() {
        Some(STANDARD_INPUT) => Box::new(io::stdin()),
        _ => Box::new(File::open(file).with_context(|| format!("could not open {}", file.display()))?),
    };
    for loaded in store.load(archive).await? {
        show::line(&format!("loaded {}", loaded.reference));
    }
    Ok(())
}

/// Lists the images by name.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn list(directory: &DataDirectory, output: Output) -> anyhow::Result<()> {
    let images = open(directory)?.list().await?;
    match output {
        Output::Json => {
            let rows: Vec<_> = images
                .iter()
                .map(|image| json!({"name": image.reference, "id": image.id.to_string(), "bytes": image.size}))
                .collect();
            show::line(&json!({"images": rows}).to_string());
        }
        Output::Text => {
            let width = images.iter().map(|image| image.reference.len()).max().unwrap_or(0).max("NAME".len());
            show::line(&format!("{:width$}  {:12}  SIZE", "NAME", "ID"));
            images.iter().for_each(|image| show::line(&row(image, width)));
        }
    }
    Ok(())
}

fn open(directory: &DataDirectory) -> anyhow::Result<ImageStore> {
    let directories = Directories::find(&directory.data_dir)?;
    directories.make_data().with_context(|| format!("could not make {}", directories.data.display()))?;
    Ok(ImageStore::open(&directories.images())?)
}

#[expect(clippy::cast_precision_loss, reason = "a size is shown to one decimal")]
fn row(image: &Image, width: usize) -> String {
    let id: String = image.id.hex().chars().take(12).collect();
    format!("{:width$}  {id:12}  {:.1} MB", image.reference, image.size as f64 / 1e6)
}
