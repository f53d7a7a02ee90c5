//! Completion of shells: what clap makes of the grammar, and the containers and templates there are.
//!
//! The names come from the coordinator at the time Tab is pressed, without retries: one that does
//! not answer completes nothing.
//!
//! Never here: words of the grammar, which it is made of.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

/// Verbs whose first argument is a container.
const OF_CONTAINER: &str = "set start stop restart destroy delete mount umount fsck status enter \
                            exec exec2 runscript console list resources snapshot snapshot-list \
                            snapshot-switch snapshot-delete";

/// The script for `shell`.
pub(crate) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "virtctl", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script.push_str(&bash()),
        Shell::Fish => script.push_str(&fish()),
        // The others complete verbs and options.
        _ => {}
    }
    script
}

fn bash() -> String {
    let verbs = OF_CONTAINER.split_whitespace().collect::<Vec<_>>().join("|");
    format!(
        r#"
_virtctl_names() {{
    _virtctl "$@"
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" names=
    case "$prev" in
        {verbs})
            [[ "$cur" == -* ]] ||
                names=$(virtctl list -a -H --fields ctid,name --patience 0 2>/dev/null |
                    tr -s " " "\n" | grep -vx -- -) ;;
        --ostemplate)
            names=$(virtctl template list -H --fields name --patience 0 2>/dev/null) ;;
    esac
    [[ -z "$names" ]] || COMPREPLY=($(compgen -W "$names" -- "$cur"))
}}
complete -F _virtctl_names -o bashdefault -o default virtctl
"#
    )
}

fn fish() -> String {
    let containers = "(virtctl list -a -o csv -H --fields ctid,hostname --patience 0 2>/dev/null \
                      | string replace , \\t)";
    let templates = "(virtctl template list -H --fields name --patience 0 2>/dev/null)";
    format!(
        "complete -c virtctl -n \"__fish_seen_subcommand_from {OF_CONTAINER}\" -f -a \
         '{containers}'\ncomplete -c virtctl -n \"__fish_seen_subcommand_from create\" -l \
         ostemplate -x -a '{templates}'\n"
    )
}
