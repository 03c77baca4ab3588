//! A TCP proxy before Kafka that takes all brokers out of a Metadata answer, as a fenced broker has none to name when
//! it goes on after a pause.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use penstock_devstack::{Kafka, KafkaListener, KafkaOptions};
use penstock_kafka::ClientSettings;

use super::common::{PATIENCE, client_at};
use super::delay;

const METADATA: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;

pub(crate) static PROXY: LazyLock<Proxy> = LazyLock::new(Proxy::start);

pub(crate) struct Proxy {
    pub(crate) kafka: Kafka,
    address: String,
    plan: Arc<Plan>,
}

/// Names of clients.
#[derive(Default)]
struct Plan {
    /// The next answer about topics names no brokers.
    to_fence: Mutex<BTreeSet<String>>,
    fenced: Mutex<BTreeMap<String, usize>>,
    changed: Condvar,
}

impl Proxy {
    fn start() -> Self {
        delay::install();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let advertised_port = listener.local_addr().unwrap().port();
        let name = "FENCED".to_owned();
        let listeners = vec![KafkaListener { name: name.clone(), advertised_port }];
        let kafka = Kafka::start(&KafkaOptions { listeners, ..KafkaOptions::default() }).unwrap();
        let target = kafka.listener(&name).expect("these tests need a Kafka of their own");
        let plan = Arc::new(Plan::default());
        let plans = Arc::clone(&plan);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&target).unwrap());
                forward(&client, &server, &plans);
            }
        });
        Self { kafka, address: format!("127.0.0.1:{advertised_port}"), plan }
    }

    /// Settings of a client that comes through here and asks for metadata often.
    pub(crate) fn client(&self, id: &str) -> ClientSettings {
        let mut settings = client_at(&self.address);
        settings.client_id = id.into();
        settings.properties.insert("topic.metadata.refresh.interval.ms".into(), "300".into());
        settings.properties.insert("debug".into(), delay::DEBUG.into());
        settings
    }

    /// The next answer to this client that is about topics names no broker.
    pub(crate) fn fence_next(&self, id: &str) {
        self.plan.to_fence.lock().insert(id.into());
    }

    /// Waits until such an answer went out.
    pub(crate) fn wait_fenced(&self, id: &str) {
        let end = Instant::now() + PATIENCE;
        let mut fenced = self.plan.fenced.lock();
        while !fenced.contains_key(id) {
            assert!(!self.plan.changed.wait_until(&mut fenced, end).timed_out(), "{id} asks for no metadata");
        }
        drop(fenced);
        // librdkafka takes it in, with our delay.
        thread::sleep(Duration::from_secs(1));
    }

    pub(crate) fn fence(&self, id: &str) {
        self.fence_next(id);
        self.wait_fenced(id);
    }
}

/// Requests by correlation id: the version of a Metadata request, and who asks.
type Asked = Arc<Mutex<HashMap<i32, (i16, String)>>>;

fn forward(client: &TcpStream, server: &TcpStream, plan: &Arc<Plan>) {
    let asked = Asked::default();
    for (from, to, plan) in [(client, server, None), (server, client, Some(Arc::clone(plan)))] {
        to.set_nodelay(true).unwrap();
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let asked = Arc::clone(&asked);
        thread::spawn(move || {
            while let Ok(frame) = read(&mut from) {
                let frame = match &plan {
                    None => note(frame, &asked),
                    Some(plan) => answer(frame, &asked, plan),
                };
                let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
                if to.write_all(&[&length[..], &frame].concat()).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}

fn read(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn note(frame: Vec<u8>, asked: &Asked) -> Vec<u8> {
    let mut at = Walk { frame: &frame, at: 0 };
    let (key, version, correlation) = (at.int16(), at.int16(), at.int32());
    if key == METADATA {
        let length = usize::try_from(at.int16()).unwrap();
        let id = String::from_utf8(at.bytes(length).to_vec()).unwrap();
        asked.lock().insert(correlation, (version, id));
    }
    frame
}

fn answer(frame: Vec<u8>, asked: &Asked, plan: &Plan) -> Vec<u8> {
    let correlation = Walk { frame: &frame, at: 0 }.int32();
    let Some((version, id)) = asked.lock().remove(&correlation) else { return frame };
    let mut to_fence = plan.to_fence.lock();
    if !to_fence.contains(&id) {
        return frame;
    }
    let Some(without) = without_brokers(&frame, version) else { return frame };
    to_fence.remove(&id);
    *plan.fenced.lock().entry(id).or_default() += 1;
    plan.changed.notify_all();
    without
}

/// A Metadata answer without brokers and leaders; `None` if it is not about topics.
fn without_brokers(frame: &[u8], version: i16) -> Option<Vec<u8>> {
    assert!((10..=13).contains(&version), "Metadata version {version} is not known here");
    let mut at = Walk { frame, at: 0 };
    // Correlation id, tags, throttle time.
    at.skip(4);
    at.no_tags();
    at.skip(4);
    let mut result = frame[..at.at].to_vec();
    result.push(1);
    for _ in 0..at.count() {
        at.skip(4);
        at.string();
        at.skip(4);
        at.string();
        at.no_tags();
    }
    let cluster = at.at;
    at.string();
    result.extend(&frame[cluster..at.at]);
    // The controller.
    at.skip(4);
    result.extend((-1_i32).to_be_bytes());
    let removed = at.at - result.len();
    result.extend(&frame[at.at..]);
    let topics = at.count();
    for _ in 0..topics {
        // Error, name, id, whether it is internal.
        at.skip(2);
        at.string();
        at.skip(16 + 1);
        for _ in 0..at.count() {
            let error = at.at - removed;
            result[error..error + 2].copy_from_slice(&LEADER_NOT_AVAILABLE.to_be_bytes());
            at.skip(2 + 4);
            let leader = at.at - removed;
            result[leader..leader + 4].copy_from_slice(&(-1_i32).to_be_bytes());
            at.skip(4 + 4);
            for _ in ["replicas", "in sync", "offline"] {
                let count = at.count();
                at.skip(4 * count);
            }
            at.no_tags();
        }
        // Authorized operations.
        at.skip(4);
        at.no_tags();
    }
    (topics > 0).then_some(result)
}

/// Goes through a frame, in the encoding with tags.
struct Walk<'a> {
    frame: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let bytes = &self.frame[self.at..self.at + count];
        self.at += count;
        bytes
    }

    fn skip(&mut self, count: usize) {
        self.bytes(count);
    }

    fn int16(&mut self) -> i16 {
        i16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    fn int32(&mut self) -> i32 {
        i32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = usize::from(self.bytes(1)[0]);
            value |= (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    /// Entries of an array or bytes of a string; the wire has one more, and 0 for null.
    fn count(&mut self) -> usize {
        self.varint().saturating_sub(1)
    }

    fn string(&mut self) {
        let length = self.count();
        self.skip(length);
    }

    fn no_tags(&mut self) {
        assert_eq!(self.varint(), 0, "tags are not known here");
    }
}
