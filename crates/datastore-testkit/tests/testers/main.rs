//! Tests of the testers: right stores and histories pass, wrong ones do not.

mod faulty;
mod histories;
mod planted;

/// A store that is right passes every case, none of which is left out.
mod right {
    use crate::faulty::{Fault, Faulty};

    async fn right() -> Faulty {
        Faulty::new(Fault::Nothing)
    }

    trivet_datastore_testkit::conformance!(right);
}
