//! `trivet cloudinit`: files in, findings and results out; the rules are in `trivet_cloudinit`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use trivet_cloudinit::merge::{Source, SourceKind, merge, overlay};
use trivet_cloudinit::render::{self, Secrets};
use trivet_cloudinit::{MAX_BYTES, Report, Severity, check, cluster};

use crate::args::{CloudinitArgs, CloudinitCommand, ClusterCommand, FindingsArgs, MergeArgs};
use crate::failure::Failure;

pub(crate) fn run(args: &CloudinitArgs) -> Result<(), Failure> {
    match &args.command {
        CloudinitCommand::Validate { files, output } => {
            let reports = read_all(files)?;
            show(&reports, output)
        }
        CloudinitCommand::Cluster {
            command: ClusterCommand::Check { files, output },
        } => {
            let mut reports = read_all(files)?;
            cluster::check(&mut reports);
            show(&reports, output)
        }
        CloudinitCommand::Merge(args) => merged(args),
        CloudinitCommand::Render {
            files,
            json,
            show_secrets,
        } => {
            let sources = files
                .iter()
                .map(|path| Ok((name(path), read(path)?)))
                .collect::<Result<Vec<_>, Failure>>()?;
            let merged = overlay(&sources);
            complain(&merged.reports)?;
            let secrets = secrets(*show_secrets);
            print(&if *json {
                pretty(&render::to_json(&merged.document, secrets))?
            } else {
                render::to_text(&merged.document, secrets)
            })
        }
    }
}

fn secrets(shown: bool) -> Secrets {
    if shown {
        Secrets::Shown
    } else {
        Secrets::Masked
    }
}

fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "<stdin>".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Reads a file, or standard input, up to a byte more than is accepted.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    let result = if path.as_os_str() == "-" {
        io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    match result {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::usage(format!(
            "cannot read {}: {error}",
            name(path)
        ))),
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Report>, Failure> {
    files
        .iter()
        .map(|path| Ok(check(&name(path), &read(path)?)))
        .collect()
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::other),
    }
}

fn pretty(json: &serde_json::Value) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(json).map_err(Failure::other)?;
    text.push('\n');
    Ok(text)
}

/// "2 errors, 1 warning".
fn summary(reports: &[Report]) -> (usize, usize, String) {
    let count = |severity| reports.iter().map(|report| report.count(severity)).sum();
    let (errors, warnings): (usize, usize) = (count(Severity::Error), count(Severity::Warning));
    let plural = |number: usize, noun: &str| {
        let ending = if number == 1 { "" } else { "s" };
        format!("{number} {noun}{ending}")
    };
    let text = format!(
        "{}, {}",
        plural(errors, "error"),
        plural(warnings, "warning")
    );
    (errors, warnings, text)
}

/// Prints all findings; fails if there are any that count.
fn show(reports: &[Report], output: &FindingsArgs) -> Result<(), Failure> {
    let (errors, warnings, summary) = summary(reports);
    if output.json {
        let objects: Vec<String> = reports
            .iter()
            .flat_map(Report::to_json)
            .map(|object| object.to_string())
            .collect();
        print(&if objects.is_empty() {
            "[]\n".to_owned()
        } else {
            format!("[\n{}\n]\n", objects.join(",\n"))
        })?;
    } else {
        for report in reports {
            let text = report.to_text();
            print(&if text.is_empty() {
                format!("{}: ok\n", report.file)
            } else {
                text
            })?;
        }
    }
    if errors > 0 || (output.strict && warnings > 0) {
        return Err(Failure::other(anyhow!(summary)));
    }
    if warnings > 0 && !output.json {
        eprintln!("{summary}");
    }
    Ok(())
}

/// Findings on standard error; errors are fatal.
fn complain(reports: &[Report]) -> Result<(), Failure> {
    for report in reports {
        eprint!("{}", report.to_text());
    }
    let (errors, _, summary) = summary(reports);
    if errors > 0 {
        return Err(Failure::other(anyhow!(summary)));
    }
    Ok(())
}

fn merged(args: &MergeArgs) -> Result<(), Failure> {
    let merged = merge(sources(args)?);
    let secrets = secrets(args.show_secrets);
    print(&if args.json {
        pretty(&merged.to_json(secrets, args.explain))?
    } else {
        merged.to_text(secrets, args.explain)
    })?;
    complain(&merged.reports)
}

/// The sources that are named, or those of the machine.
fn sources(args: &MergeArgs) -> Result<Vec<Source>, Failure> {
    use SourceKind::{
        CommandLine, ConfigDirectory, Local, ProviderHostname, ProviderKeys, System, Userdata,
    };
    let places = [
        (System, &args.system, "k3os/system/config.yaml"),
        (CommandLine, &args.cmdline, "proc/cmdline"),
        (Local, &args.local, "var/lib/rancher/k3os/config.yaml"),
        (
            ProviderKeys,
            &args.authorized_keys,
            "run/config/ssh/authorized_keys",
        ),
        (
            ProviderHostname,
            &args.local_hostname,
            "run/config/local_hostname",
        ),
        (Userdata, &args.userdata, "run/config/userdata"),
        (
            ConfigDirectory,
            &args.config_dir,
            "var/lib/rancher/k3os/config.d",
        ),
    ];
    let named = places.iter().any(|(_, path, _)| path.is_some());
    let mut sources = Vec::new();
    for (kind, given, usual) in places {
        let path = match given {
            Some(path) => path.clone(),
            None if named => continue,
            None => args.root.join(usual),
        };
        if !named && !path.exists() {
            continue;
        }
        let files = if kind == ConfigDirectory {
            directory(&path)?
        } else {
            vec![path]
        };
        for path in files {
            sources.push(Source {
                kind,
                name: name(&path),
                bytes: read(&path)?,
            });
        }
    }
    Ok(sources)
}

/// Every file of a directory, whatever its suffix; a directory within is an error.
fn directory(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failure =
        |error: io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failure)? {
        files.push(entry.map_err(failure)?.path());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::args::Cli;

    /// A flag that a node takes must not be called unknown in a file. (Agents tolerate some
    /// flags of servers that K3s's agents refuse: these are findings.)
    #[test]
    fn every_flag_of_a_node_is_known_to_the_checker() {
        let known = |role: &str, flag: &str| {
            let text = format!(
                "k3os: {{token: x, server_url: 'https://h:6443', k3s_args: [{role}, --{flag}=1]}}"
            );
            trivet_cloudinit::check("-", text.as_bytes())
                .findings
                .iter()
                .all(|finding| finding.kind != trivet_cloudinit::Kind::BadK3sArg)
        };
        let command = Cli::command();
        for role in ["server", "agent"] {
            let subcommand = command.find_subcommand(role).expect("both roles exist");
            let unknown: Vec<&str> = subcommand
                .get_arguments()
                .filter_map(clap::Arg::get_long)
                .filter(|flag| *flag != "help" && !known("server", flag) && !known("agent", flag))
                .collect();
            assert!(unknown.is_empty(), "{role}: {unknown:?}");
        }
    }
}
