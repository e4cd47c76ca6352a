//! Generates the client of the service transcoders register with; its messages are `livepeer`'s.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../livepeer/src/wire/livepeer.proto";
    println!("cargo:rerun-if-changed={proto}");
    let mut files = protox::compile([proto], ["../livepeer/src/wire"])?;
    for file in &mut files.file {
        file.service.retain(|service| service.name() == "Transcoder");
    }
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .extern_path(".net", "::livepeer::wire::net")
        .compile_fds(files)?;
    Ok(())
}
