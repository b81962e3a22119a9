//! Bytes from anywhere.

use proptest::prelude::*;
use trivet_raft_node::testing::decode_anything;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        decode_anything(&bytes);
    }

    /// Bytes that look like fields get further in than noise does.
    #[test]
    fn decoders_never_panic_on_plausible_fields(
        fields in proptest::collection::vec((1u8..9, 0u8..6, proptest::collection::vec(any::<u8>(), 0..40)), 0..24)
    ) {
        let mut bytes = Vec::new();
        for (number, wire, mut body) in fields {
            bytes.push(number << 3 | wire);
            match wire {
                0 => bytes.extend(body.iter().take(3).map(|byte| byte & 0x7f).chain([1])),
                1 => { body.resize(8, 0); bytes.extend(body) }
                2 => { bytes.push(body.len() as u8); bytes.extend(body) }
                5 => { body.resize(4, 0); bytes.extend(body) }
                _ => bytes.extend(body),
            }
        }
        decode_anything(&bytes);
        // And nested one level down.
        let mut outer = vec![1 << 3 | 2, bytes.len().min(127) as u8];
        outer.extend(bytes.iter().take(127));
        decode_anything(&outer);
    }
}
