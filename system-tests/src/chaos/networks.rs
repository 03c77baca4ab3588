//! The networks of a site: a proxy between the gateway and Kafka, and for each writer one to Kafka and one to ClickHouse,
//! so that one writer can be cut off while another one is not.

use std::net::SocketAddr;

use penstock_devstack::{KafkaListener, Stack};

use super::kind::{Link, WRITERS_MAX};
use crate::faults::proxy::{Proxy, ProxyPort};

/// Ports of the proxies: Kafka has to know them before there is anything to forward to.
#[derive(Debug)]
pub struct NetworkPorts {
    gateway_kafka: ProxyPort,
    writers_kafka: Vec<ProxyPort>,
    writers_clickhouse: Vec<ProxyPort>,
}

const GATEWAY: &str = "GATEWAY";

fn writer_listener(writer: usize) -> String {
    format!("WRITER{writer}")
}

async fn one_a_writer() -> Vec<ProxyPort> {
    let mut ports = Vec::new();
    for _ in 0..WRITERS_MAX {
        ports.push(ProxyPort::bind().await);
    }
    ports
}

impl NetworkPorts {
    /// Binds them.
    pub async fn bind() -> Self {
        Self {
            gateway_kafka: ProxyPort::bind().await,
            writers_kafka: one_a_writer().await,
            writers_clickhouse: one_a_writer().await,
        }
    }

    /// The listeners that make clients go by way of the proxies.
    pub fn listeners(&self) -> Vec<KafkaListener> {
        let writers = self.writers_kafka.iter().enumerate();
        let named = writers.map(|(writer, port)| (writer_listener(writer), port));
        let named = named.chain([(GATEWAY.to_owned(), &self.gateway_kafka)]);
        named.map(|(name, port)| KafkaListener { name, advertised_port: port.port() }).collect()
    }

    /// Starts to forward to these servers, on the runtime this is called in.
    ///
    /// # Panics
    /// Where they are the user's.
    pub fn forward(self, stack: &Stack) -> Networks {
        let listener = |name: &str| -> SocketAddr {
            let address =
                stack.kafka.listener(name).expect("faults need a Kafka of their own, not the user's");
            address.parse().unwrap()
        };
        let http = stack.clickhouse.http_url();
        let http: SocketAddr = http.trim_start_matches("http://").parse().unwrap();
        let writers = self.writers_kafka.into_iter().enumerate();
        Networks {
            gateway_kafka: self.gateway_kafka.forward(listener(GATEWAY)),
            writers_kafka: writers
                .map(|(writer, port)| port.forward(listener(&writer_listener(writer))))
                .collect(),
            writers_clickhouse: self.writers_clickhouse.into_iter().map(|port| port.forward(http)).collect(),
        }
    }
}

/// The proxies.
#[derive(Debug)]
pub struct Networks {
    gateway_kafka: Proxy,
    writers_kafka: Vec<Proxy>,
    writers_clickhouse: Vec<Proxy>,
}

impl Networks {
    /// The proxy of a network; `writer` counts only where it is of a writer.
    pub fn of(&self, link: Link, writer: usize) -> &Proxy {
        match link {
            Link::GatewayKafka => &self.gateway_kafka,
            Link::WriterKafka => &self.writers_kafka[writer],
            Link::WriterClickHouse => &self.writers_clickhouse[writer],
        }
    }

    /// No cut and no delay in any of them.
    pub fn heal(&self) {
        let all = self.writers_kafka.iter().chain(&self.writers_clickhouse).chain([&self.gateway_kafka]);
        all.for_each(Proxy::heal);
    }
}
