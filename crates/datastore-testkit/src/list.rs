//! The list of all cases.

/// Makes a test of every case for the store that a factory opens.
///
/// The factory is an async function without arguments that returns a [`Subject`](crate::Subject)
/// over an empty store; it is called once per test, and for each run of the comparison with the
/// model. Cases for which the subject declares something as missing say so on standard error.
#[macro_export]
macro_rules! conformance {
    ($factory:expr) => {
        $crate::conformance! { @list @tests $factory }

        #[test]
        fn agrees_with_the_model() {
            $crate::model::run_test($factory);
        }
    };
    (@table) => { $crate::conformance! { @list @table () } };
    (@list @$mode:ident $argument:expr) => {
        $crate::conformance! { @$mode $argument;
            fresh_store_is_at_revision_one
            every_write_is_one_revision
            put_creates_and_replaces
            put_expecting_absence_creates_once
            put_expecting_a_revision_replaces_only_that
            expecting_a_revision_never_matches_an_absent_key
            delete_of_nothing_writes_nothing
            delete_expecting_a_revision
            delete_expecting_absence_is_invalid
            a_key_starts_over_after_its_deletion
            one_of_many_creators_wins
            no_increment_is_lost
            empty_keys_are_invalid
            empty_values_are_values
            all_bytes_are_kept
            too_large_is_refused
            dropped_writes_leave_nothing_half

            ranges_are_in_key_order
            ranges_cover_what_they_say
            prefixes_of_high_bytes
            limits_report_count_and_more
            ranges_start_after_a_key
            counting_leaves_pairs_out
            old_revisions_stay_readable
            future_revisions_are_refused
            pages_of_one_revision_fit_together
            reads_see_own_writes
            serializable_reads_arrive

            watch_from_now_shows_what_comes
            watch_from_the_past_replays
            watch_from_the_future_waits
            watch_from_before_a_compaction_is_refused
            watch_from_the_compaction_itself_is_complete
            watch_covers_exactly_its_range
            watch_events_have_their_pairs
            watch_tells_previous_pairs
            watch_tells_its_progress
            watch_goes_on_where_another_ended
            slow_watch_never_skips
            watch_ends_at_shutdown

            concurrent_histories_are_linearizable
            watches_under_writers_have_no_gap_and_no_duplicate
            watches_under_compaction_have_no_gap
            exports_are_of_one_revision

            leases_expire_with_their_keys
            keepalives_extend_leases
            revoking_deletes_keys_at_one_revision
            revoking_without_keys_writes_nothing
            unknown_leases_are_not_found
            the_last_put_decides_the_lease
            a_lost_race_does_not_ask_for_the_lease

            compaction_forgets_only_what_was_superseded
            compaction_has_bounds
            compacting_deletions

            exports_are_complete
            shutdown_is_final
            everything_survives_a_clean_stop
            everything_acknowledged_survives_a_kill
            revisions_grow_over_stops
            leases_end_after_a_stop_too

            clusters_say_who_they_are
            members_read_each_others_writes
            members_agree_on_the_winner
            members_share_leases
            members_are_linearizable_together
            members_watch_one_history
        }
    };
    (@tests $factory:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::run_test(stringify!($case), $factory);
            }
        )*
    };
    (@table $nothing:expr; $($case:ident)*) => {
        &[$($crate::Case { name: stringify!($case), run: |bench| Box::pin($case(bench)) }),*]
    };
}
