//! Kafka is stopped while an alert is with its receiver: nothing is lost, and service comes back by itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use penstock_notifier::Receiver;

use support::{Answer, Hook, KAFKA, Role, World, firing, until};

#[test]
fn kafka_that_is_stopped_and_goes_on_costs_no_alert() {
    let world = World::new();
    let webhook = Hook::start(&world, &[], Answer::Gated);
    let mut config = world.config();
    config.notify.webhook_url = webhook.url.clone();
    // Requests are noticed to be unanswered within seconds.
    config.kafka.properties.insert("socket.timeout.ms".to_owned(), "2000".to_owned());
    let role = Role::start(&world, &config);
    world.say(&firing("a"));
    until("the receiver has it", || webhook.came().len() == 1);
    KAFKA.pause().unwrap();
    webhook.open_gate();
    until("it is delivered", || {
        role.metric("penstock_notify_alerts_total{receiver=\"webhook\",outcome=\"delivered\"}") == 1.0
    });
    until("it is noticed that Kafka is away", || !role.readiness.is_ready());
    KAFKA.resume().unwrap();
    until("it is noticed that Kafka is back", || role.readiness.is_ready());
    world.say(&firing("b"));
    until("the next is delivered", || webhook.taken().contains(&"b".to_owned()));
    world.until_committed(&config, Receiver::Webhook);
    role.stop(&world);
}
