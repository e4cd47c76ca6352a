//! Where the renditions of a segment go: into our own memory, for the gateway to fetch, or into its object store.
//!
//! Walk 1, step 9.
use bytes::Bytes;
use futures_util::future;
use livepeer::wire::{SegmentMeta, net};
use tokio::time::Instant;

use crate::node::Orchestrator;
use crate::object_store::{self, StoreError, Upload};
use crate::pool::{Output, Transcoded};
use crate::rendition_store::{self, Stored};

/// Puts the renditions where the gateway will find them, and says where.
///
/// # Errors
/// [`StoreError`] when the gateway's store did not take all of them in time; our own memory takes any.
pub(crate) async fn deliver<T, B, S>(
    node: &Orchestrator<T, B, S>,
    session: &str,
    meta: &SegmentMeta,
    transcoded: &Transcoded,
    until: Instant,
) -> Result<Vec<net::TranscodedSegmentData>, StoreError> {
    let mut names: Vec<String> = Vec::new();
    let outputs = meta.profiles.iter().zip(&transcoded.renditions).map(|(profile, output)| {
        // Two profiles of one name must not end up as one file.
        let twins = names.iter().filter(|name| **name == profile.name).count();
        names.push(profile.name.clone());
        let name = if twins == 0 { profile.name.clone() } else { format!("{}-{twins}", profile.name) };
        Rendition { name, seq: meta.seq, container: profile.container, output }
    });
    let outputs: Vec<Rendition<'_>> = outputs.collect();
    match meta.storage.as_ref().filter(|storage| object_store::is_external(storage)) {
        Some(storage) => future::try_join_all(outputs.iter().map(|one| one.send(node, storage, until))).await,
        None => Ok(outputs.into_iter().map(|one| one.keep(node, session)).collect()),
    }
}

struct Rendition<'a> {
    name: String,
    seq: i64,
    container: livepeer::profile::Container,
    output: &'a Output,
}

impl Rendition<'_> {
    /// Keeps it in memory, its signature beside it.
    fn keep<T, B, S>(self, node: &Orchestrator<T, B, S>, session: &str) -> net::TranscodedSegmentData {
        let Self { name, seq, container, output } = &self;
        let path = rendition_store::path(session, name, *seq, container.extension());
        let url = format!("{}{path}", node.service_uri);
        let perceptual_hash_url =
            output.signature.as_ref().map(|_| rendition_store::signature_path(&url)).unwrap_or_default();
        let stored = Stored {
            media: output.media.clone(),
            media_type: container.media_type(),
            signature: output.signature.clone(),
        };
        node.renditions.put(path, session, name, stored);
        self.told(url, perceptual_hash_url)
    }

    /// Sends it to the gateway's store, its signature beside it.
    async fn send<T, B, S>(
        &self,
        node: &Orchestrator<T, B, S>,
        storage: &net::OsInfo,
        until: Instant,
    ) -> Result<net::TranscodedSegmentData, StoreError> {
        let file = format!("{}.{}", self.seq, self.container.extension());
        let upload = |file: String, media_type, media: &Bytes| Upload {
            directory: object_store::step(&self.name),
            file,
            media_type,
            media: media.clone(),
        };
        let rendition = upload(file.clone(), self.container.media_type(), &self.output.media);
        let url = object_store::store(&node.outbound, storage, &rendition, until).await?;
        let mut perceptual_hash_url = String::new();
        if let Some(signature) = &self.output.signature {
            let beside = upload(format!("{file}.phash"), "application/octet-stream", signature);
            perceptual_hash_url = object_store::store(&node.outbound, storage, &beside, until).await?;
        }
        Ok(self.told(url, perceptual_hash_url))
    }

    fn told(&self, url: String, perceptual_hash_url: String) -> net::TranscodedSegmentData {
        let pixels = i64::try_from(self.output.rendition.pixels.0).unwrap_or(i64::MAX);
        net::TranscodedSegmentData { url, pixels, perceptual_hash_url }
    }
}
