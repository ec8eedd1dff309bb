//! Encoding and decoding a value.

use std::hint::black_box;

use bincode::config::standard;
use bincode::serde::encode_into_std_write;
use criterion::Criterion;
use larder::codec::{Bincode, Codec, Json, MessagePack, Postcard};

use crate::support::user::User;

pub(crate) fn round_trip(c: &mut Criterion) {
    codec(c, &Bincode);
    codec(c, &Json);
    codec(c, &Postcard);
    codec(c, &MessagePack);
    without_a_shape(c);
}

/// What the shape adds to a value is the difference to "encode by bincode".
fn without_a_shape(c: &mut Criterion) {
    let user = User::new(42);
    let mut bytes = Vec::with_capacity(512);
    c.bench_function("encode by bincode without a shape", |b| {
        b.iter(|| {
            bytes.clear();
            encode_into_std_write(black_box(&user), &mut bytes, standard()).unwrap();
        });
    });
}

fn codec<C: Codec>(c: &mut Criterion, codec: &C) {
    let user = User::new(42);
    let mut bytes = Vec::with_capacity(512);
    c.bench_function(&format!("encode by {}", C::NAME), |b| {
        b.iter(|| {
            bytes.clear();
            codec.encode(black_box(&user), &mut bytes).unwrap();
        });
    });
    bytes.clear();
    codec.encode(&user, &mut bytes).unwrap();
    c.bench_function(&format!("decode by {}", C::NAME), |b| {
        b.iter(|| codec.decode::<User>(black_box(&bytes)).unwrap());
    });
    c.bench_function(&format!("decode and compare shapes by {}", C::NAME), |b| {
        b.iter(|| codec.decode_same_shape::<User>(black_box(&bytes)).unwrap());
    });
}
