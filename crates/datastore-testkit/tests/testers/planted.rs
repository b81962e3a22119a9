//! Every planted bug makes a named case fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use trivet_datastore_testkit::{Case, Verdict, cases, model, run_case};

use crate::faulty::{Fault, Faulty};

fn case(name: &str) -> &'static Case {
    cases()
        .iter()
        .find(|case| case.name == name)
        .expect("a case has this name")
}

/// The message of the panic that ended the case, if one did.
fn failure_of(fault: Fault, name: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("there are threads");
    let subject = Box::new(Faulty::new(fault));
    let outcome = runtime.block_on(async { tokio::spawn(run_case(case(name), subject)).await });
    runtime.shutdown_background();
    match outcome {
        Ok(verdict) => {
            assert_eq!(verdict, Verdict::Passed, "{name} must apply here");
            None
        }
        Err(error) => Some(message(&*error.into_panic())),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_default()
}

macro_rules! planted {
    ($($name:ident: $fault:ident is caught by $($case:ident)+;)*) => { $(
        #[test]
        fn $name() {
            $(
                let failure = failure_of(Fault::$fault, stringify!($case));
                assert!(failure.is_some(), "{} missed {:?}", stringify!($case), Fault::$fault);
            )+
        }
    )* };
}

planted! {
    lost_writes: LosesWrites is caught by
        concurrent_histories_are_linearizable watches_under_writers_have_no_gap_and_no_duplicate;
    reused_revisions: ReusesRevisions is caught by
        every_write_is_one_revision concurrent_histories_are_linearizable;
    ignored_expectations: IgnoresExpectations is caught by
        put_expecting_a_revision_replaces_only_that no_increment_is_lost
        concurrent_histories_are_linearizable;
    hidden_winners: HidesWhoWon is caught by
        put_expecting_absence_creates_once concurrent_histories_are_linearizable;
    half_writes: WritesInTwoSteps is caught by
        dropped_writes_leave_nothing_half every_write_is_one_revision;
    writing_deletes_of_nothing: CountsEmptyDeletes is caught by
        delete_of_nothing_writes_nothing;
    stale_reads: ReadsStale is caught by
        reads_see_own_writes concurrent_histories_are_linearizable;
    stale_reads_in_disguise: ReadsStaleUnderNewRevision is caught by
        reads_see_own_writes concurrent_histories_are_linearizable;
    a_stale_member: ReadsStaleOnOneMember is caught by
        members_read_each_others_writes members_are_linearizable_together;
    page_counts: CountsOnlyThePage is caught by limits_report_count_and_more;
    overlapping_pages: PagesOverlap is caught by
        ranges_start_after_a_key pages_of_one_revision_fit_together;
    reads_without_history: IgnoresRevisionOfRead is caught by
        old_revisions_stay_readable future_revisions_are_refused
        compaction_forgets_only_what_was_superseded;
    dropped_events: DropsEvents is caught by
        watch_from_the_past_replays watches_under_writers_have_no_gap_and_no_duplicate
        members_watch_one_history;
    repeated_events: RepeatsBatches is caught by
        watch_from_the_past_replays watches_under_writers_have_no_gap_and_no_duplicate;
    split_revisions: SplitsRevisions is caught by
        revoking_deletes_keys_at_one_revision leases_expire_with_their_keys;
    false_progress: RunsAhead is caught by
        watch_tells_its_progress watches_under_writers_have_no_gap_and_no_duplicate;
    forgotten_previous: ForgetsPrevious is caught by
        watch_tells_previous_pairs watches_under_writers_have_no_gap_and_no_duplicate;
    forgiven_compaction: ForgivesCompaction is caught by
        watch_from_before_a_compaction_is_refused;
    skipping_laggards: SkipsWhenSlow is caught by slow_watch_never_skips;
    a_gap_after_the_replay: GapAfterReplay is caught by watch_from_the_past_replays;
    endless_watches: WatchesForEver is caught by watch_ends_at_shutdown;
    accepted_unknown_leases: AcceptsUnknownLeases is caught by unknown_leases_are_not_found;
    piecemeal_revocation: RevokesOneByOne is caught by revoking_deletes_keys_at_one_revision;
    early_expiry: ExpiresEarly is caught by leases_expire_with_their_keys;
    ignored_keepalives: IgnoresKeepalives is caught by keepalives_extend_leases;
    boundless_compaction: CompactsAnything is caught by compaction_has_bounds;
    wrong_trailers: ExportsWrongTrailer is caught by
        exports_are_complete exports_are_of_one_revision;
    incomplete_exports: ExportsNotEverything is caught by
        exports_are_complete exports_are_of_one_revision;
    service_after_shutdown: ServesAfterShutdown is caught by shutdown_is_final;
    forgetting_at_a_kill: ForgetsAtKill is caught by
        everything_acknowledged_survives_a_kill revisions_grow_over_stops;
}

#[test]
fn the_model_catches_what_differs() {
    for fault in [
        Fault::ReusesRevisions,
        Fault::IgnoresExpectations,
        Fault::HidesWhoWon,
        Fault::CountsEmptyDeletes,
        Fault::ReadsStale,
        Fault::CountsOnlyThePage,
        Fault::PagesOverlap,
        Fault::DropsEvents,
        Fault::RepeatsBatches,
        Fault::ForgetsPrevious,
        Fault::AcceptsUnknownLeases,
        Fault::RevokesOneByOne,
        Fault::CompactsAnything,
        Fault::ExportsNotEverything,
    ] {
        let run = || model::run_test_seeded(|| async { Faulty::new(fault) }, 7);
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the model must differ");
        let text = message(&*panic);
        assert!(
            text.starts_with("seed 7: "),
            "{fault:?}: a failure names its seed: {text}"
        );
    }
}
