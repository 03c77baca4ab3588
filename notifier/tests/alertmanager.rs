//! A real Alertmanager, where there is one: `PENSTOCK_TEST_ALERTMANAGER=/path/to/alertmanager cargo test -p
//! penstock-notifier --test alertmanager -- --ignored`. Tried with 0.27.0.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use penstock_notifier::Receiver;
use penstock_proto::topics::DELIVERY_FAILURES;
use penstock_proto::v1::DeviceAlert;
use serde_json::Value;

use support::{Role, World, firing, resolved, until};

struct Alertmanager {
    child: Child,
    address: String,
}

impl Alertmanager {
    /// Knows nothing of what it was told before.
    fn start(address: &str, dir: &Path) -> Self {
        let program = std::env::var("PENSTOCK_TEST_ALERTMANAGER").expect("it names an Alertmanager");
        let config = dir.join("alertmanager.yml");
        std::fs::write(&config, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n").unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let manager = Self { child, address: address.to_owned() };
        until("the Alertmanager answers", || manager.alerts().is_some());
        manager
    }

    fn alerts(&self) -> Option<Vec<Value>> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.write_all(b"GET /api/v2/alerts HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// What fires there: id and severity.
    fn firing(&self) -> Vec<String> {
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap().to_owned();
        let alerts = self.alerts().unwrap_or_default();
        let mut found: Vec<_> = alerts
            .iter()
            .map(|alert| format!("{} {}", label(alert, "alert_id"), label(alert, "severity")))
            .collect();
        found.sort();
        found
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs an Alertmanager"]
fn an_alertmanager_shows_what_fires_and_is_told_again_after_a_restart() {
    let world = World::new();
    let (dir, port) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let manager = Alertmanager::start(&address, dir.path());
    let mut config = world.config();
    config.notify.alertmanager_url = format!("http://{address}");
    config.notify.alertmanager_resend_ms = 1_000;
    config.notify.link = "http://graphs/{device_id}".to_owned();
    let role = Role::start(&world, &config);
    for id in ["a", "b", "c"] {
        world.say(&firing(id));
    }
    until("all fire", || manager.firing() == ["a warning", "b warning", "c warning"]);
    let alert = manager.alerts().unwrap().remove(0);
    assert_eq!(
        (&alert["status"]["state"], &alert["annotations"]["value"]),
        (&"active".into(), &"85.5".into())
    );
    assert!(alert["generatorURL"].as_str().unwrap().starts_with("http://graphs/0a1b2c3d"));
    world.say(&resolved("b"));
    until("one has ended", || manager.firing() == ["a warning", "c warning"]);
    world.say(&DeviceAlert { severity: 3, ..firing("c") });
    until("one is worse", || manager.firing() == ["a warning", "c critical"]);
    // What began in the future of this clock can end now.
    let ahead = support::now_ms() + 3_600_000;
    world.say(&DeviceAlert { onset: ahead, time: ahead, ..firing("d") });
    until("it fires", || manager.firing().contains(&"d warning".to_owned()));
    world.say(&DeviceAlert { onset: ahead, time: ahead + 60_000, ..resolved("d") });
    until("it has ended", || manager.firing() == ["a warning", "c critical"]);
    world.until_committed(&config, Receiver::Alertmanager);
    drop(manager);
    let manager = Alertmanager::start(&address, dir.path());
    until("it knows again what fires", || manager.firing() == ["a warning", "c critical"]);
    world.say(&resolved("a"));
    world.say(&resolved("c"));
    until("nothing fires", || manager.firing().is_empty());
    role.stop(&world);
    assert_eq!(world.records(DELIVERY_FAILURES).len(), 0);
}
