//! `trivet status`.

use std::fmt::Write as _;

use trivet_join::ClusterReport;

use crate::args::{OutputFormat, StatusArgs};
use crate::failure::Failure;
use crate::paths;

pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let data_dir = paths::data_dir(args.data_dir.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    let report = runtime
        .block_on(trivet_core::status(&data_dir, args.server.as_deref()))
        .map_err(Failure::other)?;
    match args.output {
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&report).map_err(Failure::other)?;
            println!("{json}");
        }
        OutputFormat::Text => print!("{}", text(&report)),
    }
    Ok(())
}

fn text(report: &ClusterReport) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "server    {} ({}), API {}",
        report.node,
        report.version,
        if report.ready { "ready" } else { "not ready" }
    );
    let _ = writeln!(
        out,
        "store     {}, revision {} (compacted up to {}), {} on disk, {}",
        report.backend,
        report.revision,
        report.compact_revision,
        size(report.database_size_bytes),
        if report.writable {
            "takes writes"
        } else {
            "REFUSES WRITES"
        }
    );
    if let Some(waiting) = &report.waiting {
        let _ = writeln!(
            out,
            "waiting   {} (for {} s)",
            waiting.reason, waiting.since_seconds
        );
    }
    if !report.members.is_empty() {
        members(&mut out, report);
    }
    for advice in &report.advice {
        let _ = writeln!(out, "advice    {advice}");
    }
    out
}

fn members(out: &mut String, report: &ClusterReport) {
    let leader = report
        .members
        .iter()
        .find(|member| member.leader)
        .map_or_else(|| "none".to_owned(), |member| member.name.clone());
    let _ = writeln!(
        out,
        "cluster   {}, term {}, leader {leader}",
        report.cluster_id, report.term
    );
    let survives = match report.tolerated_failures {
        Some(0) => "survives no further failure".to_owned(),
        Some(1) => "survives 1 further failure".to_owned(),
        Some(count) => format!("survives {count} further failures"),
        None => "how many failures it survives now is not known here".to_owned(),
    };
    let _ = writeln!(
        out,
        "quorum    {} of {} voters; {survives}\n",
        report.quorum, report.voters
    );

    let mut rows = vec![["MEMBER", "NAME", "ROLE", "STATE", "LAG", "PEER"].map(str::to_owned)];
    for member in &report.members {
        let state = match (member.leader, member.reachable) {
            (true, _) => "leader",
            (false, Some(true)) => "follows",
            (false, Some(false)) => "UNREACHABLE",
            (false, None) => "?",
        };
        rows.push([
            member.id.clone(),
            member.name.clone(),
            member.role.clone(),
            state.to_owned(),
            member
                .lag
                .map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
            member.peer_urls.join(","),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }

    #[test]
    fn a_store_without_quorum_says_so() {
        let report = ClusterReport {
            backend: "etcd".into(),
            ..ClusterReport::default()
        };
        let text = text(&report);
        assert!(text.contains("REFUSES WRITES"), "{text}");
        assert!(text.contains("not ready"), "{text}");
    }
}
