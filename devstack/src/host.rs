//! The process which is ClickHouse: loads the library, runs it as a server, and ends it in order on SIGTERM.
//! Never returns to other work: a process that has been a host ends.
#![allow(unsafe_code, reason = "dlopen, a C function, and a signal handler")]

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

/// Version of the arguments of [`clickhouse_host_main`]; a host program of another version is not used.
pub(crate) const HOST_VERSION: &str = "1";
/// Asks a host program for its version.
pub(crate) const VERSION_FLAG: &str = "--host-version";

/// The last query reads a pipe that stays open until SIGTERM: it keeps the server alive without waking up, survives
/// a KILL QUERY, and ends in order when the pipe is closed.
const QUERY: &str = "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; \
                     SELECT * FROM file('-', 'LineAsString', 'line String') FORMAT Null";

/// Write end of that pipe.
static KEEP_ALIVE: AtomicI32 = AtomicI32::new(-1);

/// Result of the library's `query_stable_v2`, as its header has it.
#[repr(C)]
struct LocalResult {
    buffer: *mut c_char,
    length: usize,
    vector: *mut c_void,
    elapsed_s: f64,
    rows_read: u64,
    bytes_read: u64,
    error: *mut c_char,
}

type QueryStable = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut LocalResult;

/// Runs ClickHouse in this process until SIGTERM or SIGINT; call it before any thread is started.
///
/// `args` (without the program's name) are what the devstack passes: the path of the library and the path of the
/// configuration file. Exit codes: 0 ended in order, 1 failed, 2 wrong arguments.
pub fn clickhouse_host_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    match args.as_slice() {
        [flag] if flag == VERSION_FLAG => {
            println!("{HOST_VERSION}");
            ExitCode::SUCCESS
        }
        [library, config] => match run(library.clone(), config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("ClickHouse host: {why}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!(
                "usage: clickhouse-host LIBRARY CONFIG (the devstack runs this; it is of no use by hand)"
            );
            ExitCode::from(2)
        }
    }
}

fn run(library: OsString, config: &OsString) -> Result<(), String> {
    keep_alive_on_stdin().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let query_stable = load(library)?;
    let mut config_flag = OsString::from("--config-file=");
    config_flag.push(config);
    let arguments = [OsString::from("clickhouse"), config_flag, OsString::from(format!("--query={QUERY}"))];
    let arguments: Vec<CString> = arguments.into_iter().map(c_string).collect::<Result<_, _>>()?;
    let mut argv: Vec<*mut c_char> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    argv.push(std::ptr::null_mut());
    let argc = c_int::try_from(arguments.len()).map_err(|error| error.to_string())?;
    // SAFETY: argc strings that end with NUL and a null pointer, all alive until the call returns; the function
    // has this signature in the header of the pinned library.
    let result = unsafe { query_stable(argc, argv.as_mut_ptr()) };
    // SAFETY: null, or a result which stays valid because nobody frees it.
    let error = unsafe { result.as_ref() }.map_or(std::ptr::null_mut(), |result| result.error);
    if error.is_null() || KEEP_ALIVE.load(Ordering::Relaxed) == -1 {
        return Ok(());
    }
    // SAFETY: not null, so a C string which belongs to the result.
    Err(unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned())
}

fn c_string(text: OsString) -> Result<CString, String> {
    CString::new(text.into_vec()).map_err(|error| error.to_string())
}

/// Makes standard input a pipe which never has data, and closes it on SIGTERM and SIGINT.
fn keep_alive_on_stdin() -> io::Result<()> {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: pipe2 succeeded, so both are open and belong to nobody else.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: both descriptors are open; standard input is replaced on purpose.
    if unsafe { libc::dup2(read.as_raw_fd(), libc::STDIN_FILENO) } == -1 {
        return Err(io::Error::last_os_error());
    }
    KEEP_ALIVE.store(write.into_raw_fd(), Ordering::Relaxed);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let handler = end_in_order as extern "C" fn(c_int) as libc::sighandler_t;
        // SAFETY: the handler calls only async-signal-safe functions.
        if unsafe { libc::signal(signal, handler) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn end_in_order(_signal: c_int) {
    let fd = KEEP_ALIVE.swap(-1, Ordering::Relaxed);
    if fd != -1 {
        // SAFETY: close is async-signal-safe; the swap made this the only caller for the descriptor.
        unsafe { libc::close(fd) };
    }
}

fn load(library: OsString) -> Result<QueryStable, String> {
    let path = c_string(library)?;
    // SAFETY: a C string; the library's initializers run here, in a process that has only this thread.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(dl_error());
    }
    // SAFETY: an open handle and a C string.
    let symbol = unsafe { libc::dlsym(handle, c"query_stable_v2".as_ptr()) };
    if symbol.is_null() {
        return Err(dl_error());
    }
    // SAFETY: the pinned library's header declares the function with this signature; it is never unloaded.
    Ok(unsafe { std::mem::transmute::<*mut c_void, QueryStable>(symbol) })
}

fn dl_error() -> String {
    // SAFETY: gives null or a C string that is valid until the next dl call of this thread.
    let error = unsafe { libc::dlerror() };
    if error.is_null() {
        return "the library could not be loaded".to_owned();
    }
    // SAFETY: not null, see above.
    unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned()
}
