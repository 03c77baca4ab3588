//! Gives a client its bootstrap brokers again when it has had no connection for a while.
//!
//! librdkafka (2.10 to 2.13 at least) can forget every broker it knows, for ever. A metadata answer without brokers, as
//! a fenced Kafka gives it when it goes on after a pause, decommissions all of them
//! (`rd_kafka_metadata_decommission_unavailable_brokers`). The last one that goes down schedules a new bootstrap
//! (`rd_kafka_rebootstrap`), but the end of the same answer (`rd_kafka_handle_Metadata`) stops that timer before it
//! fired and leaves `rk_rebootstrap_in_progress` set, so no later bootstrap is scheduled either. See librdkafka issue
//! 5301, and docs/adr/0003. No property avoids it: `metadata.recovery.strategy=none` removes the brokers as well.
//!
//! Here the states of brokers are only noted, on librdkafka's threads; a thread of our own calls librdkafka.
#![allow(unsafe_code, reason = "librdkafka reports states of brokers to a C function")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rdkafka_sys as rd;
use rdkafka_sys::types::RDKafkaRespErr as RespErr;

use super::Code;
use super::conf::Conf;
use crate::KafkaError;

/// How long a client may be without a connection before it gets its bootstrap brokers again. librdkafka tries every
/// second or so to connect to a broker that it knows.
const PATIENCE: Duration = Duration::from_secs(3);
/// librdkafka keeps each list it was ever given, so they are given ever more rarely while Kafka is away.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

const NAME: &CStr = c"penstock-lifeline";

/// Belongs to one client: made before it, [`Self::end`]ed before it is destroyed, and freed after it.
pub(super) struct Lifeline {
    shared: Arc<Shared>,
    brokers: CString,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Threads of brokers that are connected. Every broker of librdkafka has a thread of its own, where its state
    /// changes; names and ids can be those of an earlier broker.
    connected: Vec<ThreadId>,
    /// When the last connection was lost, or when the bootstrap brokers were last given.
    since: Instant,
    patience: Duration,
    is_over: bool,
}

/// A client that lives until the thread was joined.
struct Handle(NonNull<rd::rd_kafka_t>);

// SAFETY: librdkafka's handle is made to be used from any thread.
unsafe impl Send for Handle {}

impl Lifeline {
    /// Has the client that will be made from this configuration report the states of its brokers.
    pub(super) fn new(conf: &Conf) -> Result<Self, KafkaError> {
        let state =
            State { connected: Vec::new(), since: Instant::now(), patience: PATIENCE, is_over: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let opaque = Arc::as_ptr(&shared).cast_mut().cast();
        // SAFETY: a live configuration and a static name; whoever owns this frees it after the client.
        let code = unsafe {
            rd::rd_kafka_conf_interceptor_add_on_new(conf.as_ptr(), NAME.as_ptr(), Some(on_new), opaque)
        };
        Code::from(code).check().map_err(|code| code.error("watch the connections of a client"))?;
        Ok(Self { shared, brokers: conf.get(c"bootstrap.servers"), thread: None })
    }

    /// Starts to look after the client.
    pub(super) fn start(&mut self, client: NonNull<rd::rd_kafka_t>) -> Result<(), KafkaError> {
        let (shared, brokers, handle) = (Arc::clone(&self.shared), self.brokers.clone(), Handle(client));
        let thread = thread::Builder::new()
            .name("kafka-lifeline".into())
            .spawn(move || shared.watch(&handle, &brokers))
            .map_err(|error| KafkaError::Client {
                code: "THREAD".into(),
                why: format!("start the thread that looks after connections: {error}"),
                retriable: true,
                fatal: false,
            })?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Does not touch the client any more. Waits for a call that is under way, which is a short one.
    pub(super) fn end(&mut self) {
        self.shared.state.lock().is_over = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looked after a Kafka client's connections had panicked");
        }
    }
}

impl Shared {
    fn watch(&self, client: &Handle, brokers: &CStr) {
        let mut state = self.state.lock();
        while !state.is_over {
            if !state.connected.is_empty() {
                self.changed.wait(&mut state);
                continue;
            }
            let due = state.since + state.patience;
            if Instant::now() < due {
                self.changed.wait_until(&mut state, due);
                continue;
            }
            let waited_ms = u64::try_from(state.patience.as_millis()).unwrap_or(u64::MAX);
            state.since = Instant::now();
            state.patience = (state.patience * 2).min(PATIENCE_MAX);
            // Adding brokers reports their states to this very object.
            MutexGuard::unlocked(&mut state, || client.add(brokers));
            tracing::info!(
                waited_ms,
                "no Kafka broker is connected; the client was given its bootstrap brokers"
            );
        }
    }

    /// The broker of the calling thread is connected or is not.
    fn note(&self, is_connected: bool) {
        let thread = thread::current().id();
        let mut state = self.state.lock();
        match (state.connected.iter().position(|known| *known == thread), is_connected) {
            (None, true) => state.connected.push(thread),
            (Some(at), false) => drop(state.connected.swap_remove(at)),
            (Some(_), true) | (None, false) => return,
        }
        state.since = Instant::now();
        state.patience = PATIENCE;
        self.changed.notify_one();
    }
}

impl Handle {
    fn add(&self, brokers: &CStr) {
        // SAFETY: the client is destroyed after this thread ended; the list is terminated, and copied.
        unsafe { rd::rd_kafka_brokers_add(self.0.as_ptr(), brokers.as_ptr()) };
    }
}

unsafe extern "C" fn on_new(
    client: *mut rd::rd_kafka_t,
    _conf: *const rd::rd_kafka_conf_t,
    opaque: *mut c_void,
    _why: *mut c_char,
    _why_size: usize,
) -> RespErr {
    // SAFETY: called by librdkafka with the client that it is making.
    unsafe {
        rd::rd_kafka_interceptor_add_on_broker_state_change(
            client,
            NAME.as_ptr(),
            Some(on_broker_state_change),
            opaque,
        )
    }
}

unsafe extern "C" fn on_broker_state_change(
    _client: *mut rd::rd_kafka_t,
    _broker_id: i32,
    _protocol: *const c_char,
    _name: *const c_char,
    port: c_int,
    state: *const c_char,
    opaque: *mut c_void,
) -> RespErr {
    // Coordinators, which are second connections to brokers, and librdkafka's internal broker have no port. They are
    // never removed and serve no metadata.
    if port != 0 {
        // SAFETY: librdkafka passes a terminated string, and the opaque pointer that `Lifeline::new` configured.
        unsafe { (*opaque.cast_const().cast::<Shared>()).note(CStr::from_ptr(state) == c"UP") };
    }
    RespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}
