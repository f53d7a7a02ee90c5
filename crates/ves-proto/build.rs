//! Compiles `proto/` with protox, so that no `protoc` needs to be installed, and keeps the file
//! descriptor set for reflection.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let services = ["api", "common", "storage", "network", "resources", "lifecycle"];
    let files: Vec<PathBuf> = services
        .iter()
        .map(|s| root.join("ves").join(s).join("v1"))
        .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "proto"))
        .collect();
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    // With the options that `google.api` adds, which the messages of prost do not hold.
    std::fs::write(out, compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();
    // Maps in order, so that what says the same is encoded alike.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
