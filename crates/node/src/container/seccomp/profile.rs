//! A profile that the machine's owner has written, in the JSON of the OCI runtime specification (config-linux.md,
//! "Seccomp"), as filters. A filter has one answer for what it lists, so there is one for each answer, and the kernel
//! takes the strictest. What listed calls must not be, another says: the profile's default.

use std::collections::BTreeMap;
use std::str::FromStr;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use syscalls::Sysno;

use super::Rules;

/// Why a profile can't be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("it is no seccomp profile as the OCI runtime specification has it")]
    Parse(#[source] serde_json::Error),
    #[error("its action {0:?} needs a process that is asked; Segue has none")]
    Notify(&'static str),
    #[error("its rules can't be compiled")]
    Compile(#[from] BackendError),
}

/// Whether a profile can be followed.
pub(crate) fn check(json: &str) -> Result<(), ProfileError> {
    compile(json).map(drop)
}

pub(super) fn compile(json: &str) -> Result<Vec<BpfProgram>, ProfileError> {
    let profile: LinuxSeccomp = serde_json::from_str(json).map_err(ProfileError::Parse)?;
    let default = answer(profile.default_action(), profile.default_errno_ret())?;
    let listed = profile.syscalls().as_deref().unwrap_or_default();
    let mut by_answer: BTreeMap<u32, (SeccompAction, Rules)> = BTreeMap::new();
    let mut others = Rules::new();
    for rule in listed {
        let answer = answer(rule.action(), rule.errno_ret())?;
        if answer == default {
            continue;
        }
        add(&mut others, rule)?;
        if answer != SeccompAction::Allow {
            let entry = by_answer.entry(answer.clone().into()).or_insert_with(|| (answer, Rules::new()));
            add(&mut entry.1, rule)?;
        }
    }
    let mut filters = by_answer.into_values().collect::<Vec<_>>();
    let mut programs = Vec::new();
    let lets_others_through = matches!(default, SeccompAction::Allow | SeccompAction::Log);
    let refuses = !filters.is_empty();
    if default != SeccompAction::Allow {
        programs.push(program(others, default, SeccompAction::Allow)?);
    }
    for (answer, rules) in filters.drain(..) {
        programs.push(program(rules, SeccompAction::Allow, answer)?);
    }
    if lets_others_through && refuses {
        programs.extend(without_other_numbers());
    }
    Ok(programs)
}

/// On x86-64 every call has a second number, that of the x32 ABI, under which no rule would know it.
#[cfg(target_arch = "x86_64")]
fn without_other_numbers() -> Option<BpfProgram> {
    const X32_BIT: u32 = 0x4000_0000;
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    Some(vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_BIT),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()).into()),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, SeccompAction::Allow.into()),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn without_other_numbers() -> Option<BpfProgram> {
    None
}

fn program(rules: Rules, others: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, others, listed, architecture)?.try_into()
}

fn answer(action: Action, errno: Option<u32>) -> Result<SeccompAction, ProfileError> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => Ok(SeccompAction::KillThread),
        Action::ScmpActKillProcess => Ok(SeccompAction::KillProcess),
        Action::ScmpActTrap => Ok(SeccompAction::Trap),
        Action::ScmpActErrno => Ok(SeccompAction::Errno(errno)),
        Action::ScmpActTrace => Ok(SeccompAction::Trace(errno)),
        Action::ScmpActLog => Ok(SeccompAction::Log),
        Action::ScmpActAllow => Ok(SeccompAction::Allow),
        Action::ScmpActNotify => Err(ProfileError::Notify("SCMP_ACT_NOTIFY")),
    }
}

/// Adds a rule's calls. Names that are no calls here are those of other machines and of newer kernels.
fn add(rules: &mut Rules, rule: &LinuxSyscall) -> Result<(), BackendError> {
    let calls = rule.names().iter().filter_map(|name| Sysno::from_str(name).ok());
    let arguments = rule.args().as_deref().unwrap_or_default();
    for call in calls {
        let known = rules.get(&i64::from(call.id()));
        let is_unconditional = known.is_some_and(Vec::is_empty);
        if arguments.is_empty() || is_unconditional {
            rules.insert(i64::from(call.id()), Vec::new());
        } else {
            let conditions = arguments.iter().map(condition).collect::<Result<_, _>>()?;
            rules.entry(i64::from(call.id())).or_default().push(SeccompRule::new(conditions)?);
        }
    }
    Ok(())
}

fn condition(argument: &LinuxSeccompArg) -> Result<SeccompCondition, BackendError> {
    let (value, masked) = (argument.value(), argument.value_two().unwrap_or_default());
    let (operator, value) = match argument.op() {
        Operator::ScmpCmpNe => (SeccompCmpOp::Ne, value),
        Operator::ScmpCmpLt => (SeccompCmpOp::Lt, value),
        Operator::ScmpCmpLe => (SeccompCmpOp::Le, value),
        Operator::ScmpCmpEq => (SeccompCmpOp::Eq, value),
        Operator::ScmpCmpGe => (SeccompCmpOp::Ge, value),
        Operator::ScmpCmpGt => (SeccompCmpOp::Gt, value),
        // The first value is the mask.
        Operator::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(value), masked),
    };
    let index = u8::try_from(argument.index()).unwrap_or(u8::MAX);
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_a_filter() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
              {"names": ["read", "write", "a_call_of_the_future"], "action": "SCMP_ACT_ALLOW"},
              {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
              {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"},
              {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
            ]}"#;
        assert_eq!(compile(profile).unwrap().len(), 3);
        assert_eq!(compile(r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}"#).unwrap().len(), 0);
        assert_eq!(compile(r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap().len(), 1);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_is_refused_by_one_number_is_refused_by_the_other() {
        for (default, others) in [("ALLOW", SeccompAction::Allow), ("LOG", SeccompAction::Log)] {
            let refused = r#"[{"names": ["getpid"], "action": "SCMP_ACT_ERRNO"}]"#;
            let profile = format!(r#"{{"defaultAction": "SCMP_ACT_{default}", "syscalls": {refused}}}"#);
            let programs = compile(&profile).unwrap();
            let answer = |call: u32| programs.iter().map(|program| run(program, call)).min().unwrap();
            let is_refused = |call: u32| answer(call) < u32::from(SeccompAction::Trace(0));
            let [refused, let_through] = [libc::SYS_getpid, libc::SYS_getppid].map(|call| call as u32);
            assert_eq!(answer(let_through), u32::from(others));
            assert!(is_refused(refused) && is_refused(refused | 0x4000_0000), "{default}");
        }
    }

    /// What a filter answers to a call without arguments, by as much of BPF as filters are made of.
    fn run(program: &[sock_filter], call: u32) -> u32 {
        const X86_64: u32 = 0xc000_003e;
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            let code = u32::from(code);
            at += 1;
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                loaded = match k {
                    0 => call,
                    4 => X86_64,
                    _ => 0,
                };
            } else if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K {
                at += jump(loaded == k);
            } else if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K {
                at += jump(loaded >= k);
            } else if code == libc::BPF_JMP | libc::BPF_JA {
                at += k as usize;
            } else if code == libc::BPF_RET | libc::BPF_K {
                return k;
            } else {
                panic!("an instruction that no filter here has: {code:#x}");
            }
        }
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let table = [
            ("{}", "it is no seccomp profile as the OCI runtime specification has it"),
            (
                r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
                "its action \"SCMP_ACT_NOTIFY\" needs a process that is asked; Segue has none",
            ),
        ];
        for (json, sentence) in table {
            assert_eq!(check(json).unwrap_err().to_string(), sentence);
        }
    }

    #[test]
    fn a_call_allowed_without_conditions_has_none() {
        let rule = |args: &str| -> LinuxSyscall {
            serde_json::from_str(&format!(r#"{{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": {args}}}"#))
                .unwrap()
        };
        let conditional = rule(r#"[{"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]"#);
        for order in [[&rule("[]"), &conditional], [&conditional, &rule("[]")]] {
            let mut rules = Rules::new();
            order.into_iter().for_each(|rule| add(&mut rules, rule).unwrap());
            assert_eq!(rules[&libc::SYS_clone].len(), 0);
        }
    }
}
