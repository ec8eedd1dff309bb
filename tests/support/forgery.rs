//! What somebody with write access to Redis can do who knows the format of values: take one apart, and put it together
//! with whatever parts, so that its checksum is right.

use larder::l2::deadpool_redis::redis::AsyncCommands;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use twox_hash::XxHash3_64;

/// The parts of a value as Redis holds it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The stamp and the times.
    pub(crate) stamp: Vec<u8>,
    pub(crate) codec: u8,
    pub(crate) type_tag: [u8; 8],
    pub(crate) payload: Vec<u8>,
    /// As they are stored, with their lengths.
    pub(crate) tags: Vec<u8>,
}

impl Stored {
    pub(crate) async fn read(
        redis: &mut MultiplexedConnection,
        namespace: &str,
        key: &str,
    ) -> Self {
        let bytes: Vec<u8> = redis.get(name(namespace, key)).await.unwrap();
        let (stamp, body) = bytes.split_at(76);
        let length = u32::from_be_bytes(body[12..16].try_into().unwrap());
        let (payload, tags) = body[24..].split_at(length.try_into().unwrap());
        Self {
            stamp: stamp.to_vec(),
            codec: body[0],
            type_tag: body[4..12].try_into().unwrap(),
            payload: payload.to_vec(),
            tags: tags.to_vec(),
        }
    }

    pub(crate) async fn write(
        &self,
        redis: &mut MultiplexedConnection,
        namespace: &str,
        key: &str,
    ) {
        let mut head = vec![self.codec, 0];
        head.extend(u16::try_from(self.tags.len()).unwrap().to_be_bytes());
        head.extend(self.type_tag);
        head.extend(u32::try_from(self.payload.len()).unwrap().to_be_bytes());
        let rest = [&self.payload[..], &self.tags].concat();
        let place = XxHash3_64::oneshot(namespace.as_bytes());
        let place = XxHash3_64::oneshot_with_seed(place, key.as_bytes());
        let checksum = XxHash3_64::oneshot_with_seed(place, &head);
        let checksum = XxHash3_64::oneshot_with_seed(checksum, &rest).to_be_bytes();
        let bytes = [&self.stamp[..], &head, &checksum, &rest].concat();
        let () = redis.set(name(namespace, key), bytes).await.unwrap();
    }
}

fn name(namespace: &str, key: &str) -> String {
    format!("{{{namespace}.0}}:{key}")
}
