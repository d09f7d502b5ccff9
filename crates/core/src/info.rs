//! What a session tells of itself: one description, for Python, C and the wire.

use crate::choose::Reason;
use crate::session::Info;
use serde_json::{Value, json};

fn reasons(reasons: &[Reason]) -> Vec<Value> {
    reasons
        .iter()
        .map(|r| json!({"engine": r.engine, "why": r.why}))
        .collect()
}

impl Info {
    /// The description as JSON; `limits` are those of the fd that carries it, if any.
    pub fn json(&self, limits: Value) -> Value {
        let algorithm = self.algorithm;
        let sizes = |s: crate::table::Sizes| json!({"min": s.min, "max": s.max, "step": s.step});
        let mut all = json!({
            "iv": sizes(algorithm.iv),
            "key": sizes(algorithm.key),
            "message": if algorithm.max_message == u64::MAX { Value::Null } else { json!(algorithm.max_message) },
        });
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), limits) {
            all.extend(more);
        }
        json!({
            "algorithm": algorithm.name,
            "kind": algorithm.kind.name(),
            "engine": self.engine,
            "driver": self.driver,
            "driver_certain": self.driver_certain,
            "hardware": self.hardware,
            "fips": self.fips,
            "reasons": reasons(&self.reasons),
            "tag_size": self.tag_size,
            "digest_size": self.digest_size,
            "block_size": algorithm.block,
            "key_size": self.key_size,
            "key_bits": self.pair.as_ref().map(|pair| pair.bits),
            "private": self.pair.as_ref().map(|pair| pair.private),
            "limits": all,
            "counts": {
                "operations": self.counts.operations,
                "bytes": self.counts.bytes,
                "refused": self.counts.refused,
                "elsewhere": self.counts.elsewhere,
                "moved": self.counts.moved,
            },
        })
    }
}
