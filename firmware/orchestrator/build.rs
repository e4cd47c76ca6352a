//! Generates the servers of `net.Orchestrator` and `net.Transcoder` over the messages of `livepeer::wire`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "../livepeer/src/wire/livepeer.proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let mut files = protox::compile([PROTO], ["../livepeer/src/wire"])?;
    for file in &mut files.file {
        // We serve these; the others belong to split deployments of the reference client.
        file.service.retain(|service| matches!(service.name(), "Orchestrator" | "Transcoder"));
    }
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .extern_path(".net", "::livepeer::wire::net")
        .compile_fds(files)?;
    Ok(())
}
