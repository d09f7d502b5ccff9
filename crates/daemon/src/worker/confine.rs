//! What a worker may still do once it has begun: compute, and talk on descriptors that it was given.

use crate::sys;
use cryptofd_core::error::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;

/// System calls that are needed whatever their arguments.
const ALLOWED: &[libc::c_long] = &[
    // Descriptors that it has.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_dup,
    libc::SYS_dup3,
    // Sockets: answers, clones, AF_ALG (which has no other calls of its own).
    libc::SYS_socketpair,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_bind,
    libc::SYS_accept4,
    libc::SYS_splice,
    libc::SYS_vmsplice,
    libc::SYS_pipe2,
    libc::SYS_memfd_create,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_brk,
    // Threads, and the end. clone3 is answered ENOSYS below, so that clone's flags can be looked at.
    libc::SYS_clone3,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same by names that later architectures have not.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Nobody has a use for these but an attacker: the process ends at once.
const FATAL: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_pivot_root,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
];

/// Hides this process, takes no new privileges, and becomes `user` if there is one.
pub fn begin(user: Option<(u32, u32)>) -> Result<()> {
    let failed = |what: &'static str| {
        move |error: std::io::Error| Error::system(error.raw_os_error().unwrap_or(libc::EIO), what)
    };
    sys::raise_limits();
    if let Some((uid, gid)) = user {
        sys::become_user(uid, gid).map_err(failed("becoming the worker's user"))?;
    }
    // Becoming another user makes a process dumpable again and forgets whose death it follows.
    sys::hide().map_err(failed("hiding the worker's memory"))?;
    sys::die_with_parent().map_err(failed("PR_SET_PDEATHSIG"))?;
    sys::no_new_privileges().map_err(failed("PR_SET_NO_NEW_PRIVS"))
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
) -> std::result::Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, op, value)?])
}

fn programs() -> std::result::Result<Vec<BpfProgram>, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALLOWED.iter().chain(OLDER) {
        rules.insert(*call, Vec::new());
    }
    // Threads, not processes and not namespaces.
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    let namespaces = (libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP) as u64;
    rules.insert(
        libc::SYS_clone,
        vec![condition(0, Qword, MaskedEq(thread | namespaces), thread)?],
    );
    // No network.
    let family = |family: libc::c_int| condition(0, Dword, Eq, family as u64);
    rules.insert(
        libc::SYS_socket,
        vec![family(libc::AF_UNIX)?, family(libc::AF_ALG)?],
    );
    // What glibc's fstat is.
    rules.insert(
        libc::SYS_newfstatat,
        vec![condition(3, Dword, Eq, libc::AT_EMPTY_PATH as u64)?],
    );
    rules.insert(
        libc::SYS_prctl,
        vec![
            condition(0, Dword, Eq, libc::PR_SET_NAME as u64)?,
            // glibc and the kernel name memory for whoever looks for a leak.
            condition(0, Dword, Eq, libc::PR_SET_VMA as u64)?,
        ],
    );
    let allow = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        architecture,
    )?;
    let one = |calls: &[libc::c_long], action| {
        let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
        SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)
    };
    let fatal = one(FATAL, SeccompAction::KillProcess)?;
    let threads = one(
        &[libc::SYS_clone3],
        SeccompAction::Errno(libc::ENOSYS as u32),
    )?;
    // The one that allows least comes last: it would not let another in.
    [fatal, threads, allow]
        .into_iter()
        .map(BpfProgram::try_from)
        .collect()
}

/// From here on, nothing but what a worker needs. Before there is a second thread.
pub fn end() -> Result<()> {
    let failed = |error: String| {
        Error::new(
            cryptofd_core::error::Kind::System,
            libc::ENOSYS,
            format!("the seccomp filter: {error}"),
        )
    };
    for program in programs().map_err(|error| failed(error.to_string()))? {
        apply_filter(&program).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}
