//! Caches whose codec is named when they are built, which is the one way without the feature `bincode`. Compiles with
//! any features.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use larder::codec::{Codec, CodecError};
use larder::{Builder, Cache, Caches, MemoryL2, ServiceSettings, Source};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// JSON, in which values are counted that are encoded and decoded.
#[derive(Clone, Default)]
struct Counting {
    encoded: Arc<AtomicU32>,
    decoded: Arc<AtomicU32>,
}

impl Codec for Counting {
    const ID: u8 = 200;
    const NAME: &'static str = "counting";

    fn encode<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        self.encoded.fetch_add(1, SeqCst);
        serde_json::to_writer(out, value).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        self.decoded.fetch_add(1, SeqCst);
        serde_json::from_slice(bytes).map_err(CodecError::new)
    }
}

/// A value that one cache has inserted, and the other reads from L2.
async fn goes_through_l2(codec: &Counting, cache: impl Fn() -> Builder<u64, String>) {
    let (writer, reader) = (cache().build().unwrap(), cache().build().unwrap());
    writer.insert(&7, "tea".to_owned()).await.unwrap();
    assert!(codec.encoded.load(SeqCst) > 0);
    let decoded = codec.decoded.load(SeqCst);
    let entry = reader.get(&7).await.unwrap();
    assert_eq!((&**entry, entry.meta().source()), ("tea", Source::L2));
    assert!(codec.decoded.load(SeqCst) > decoded);
}

#[tokio::test]
async fn a_cache_uses_the_codec_that_its_builder_was_given() {
    let (l2, codec) = (MemoryL2::new(), Counting::default());
    goes_through_l2(&codec, || {
        Cache::builder_with_codec("test:named", codec.clone()).l2(l2.clone())
    })
    .await;
}

#[tokio::test]
async fn a_cache_of_a_service_uses_the_codec_that_it_was_given() {
    let (l2, codec) = (MemoryL2::new(), Counting::default());
    goes_through_l2(&codec, || {
        let caches = Caches::with_l2("test", ServiceSettings::default(), l2.clone());
        caches.cache_with_codec("named", codec.clone())
    })
    .await;
}
