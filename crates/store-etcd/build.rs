//! Generates the etcd v3 messages and services from `proto/`, without protoc.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        ["rpc.proto", "lock.proto", "election.proto", "health.proto"],
        ["proto"],
    )?;
    // For the JSON gateway, which works from descriptions.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Keys and values stay slices of the buffer a message arrived in.
        .bytes(".")
        .generate_default_stubs(true)
        .codec_path("crate::codec::MessageCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
