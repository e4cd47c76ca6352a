//! Generates the wire messages; the services are generated where they are served and called.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/wire/livepeer.proto");
    let files = protox::compile(["src/wire/livepeer.proto"], ["src/wire"])?;
    prost_build::Config::new().btree_map(["."]).service_generator(Box::new(NoServices)).compile_fds(files)?;
    Ok(())
}

struct NoServices;

impl prost_build::ServiceGenerator for NoServices {
    fn generate(&mut self, _service: prost_build::Service, _buffer: &mut String) {}
}
