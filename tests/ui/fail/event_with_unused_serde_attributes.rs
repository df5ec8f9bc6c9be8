use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
enum OrderEvent {
    Paid(#[serde(with = "cents")] f64),
    #[serde(rename = "refund", with = "cents")]
    Refunded(f64),
    #[event(name = "OrderCredited")]
    Credited(#[serde(default, serialize_with = "cents::serialize")] f64),
    Noted(#[serde(skip)] String),
    #[serde(deserialize_with = "nothing")]
    Closed,
    Tipped {
        #[serde(with = "cents")]
        amount: f64,
    },
}

mod cents {
    pub fn serialize<S: serde::Serializer>(amount: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(amount * 100.0)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        <f64 as serde::Deserialize>::deserialize(from)
    }
}

fn nothing<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Ok(())
}

fn main() {}
