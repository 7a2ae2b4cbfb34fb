//! Compiles `proto/` into one descriptor set, without a `protoc` installed.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "envoy/service/ratelimit/v3/rls.proto",
        "ratelimit/config/ratelimit/v3/rls_conf.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = Path::new(&env::var("OUT_DIR")?).join("tollgate.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}
