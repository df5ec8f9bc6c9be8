//! Servers of NATS for one test each, alone and as a cluster of three.
#![allow(dead_code)] // Each test file uses a part of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use async_nats::jetstream;
use consumer_tests::{free_port, until, until_some};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::process::Process;

/// Starts a server on a free port.
pub(crate) async fn nats_server(directory: &Path) -> (Process, String) {
    let server = Process::start(server(directory).args(["-p", "-1"]));
    let url = url(directory, &server).await;
    (server, url)
}

/// Counts the messages sent to the stream's subjects, including the repeats that the stream drops.
pub(crate) async fn count_sent(client: &async_nats::Client) -> watch::Receiver<u64> {
    let mut sent = client.subscribe("events.>").await.unwrap();
    client.flush().await.unwrap();
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        while sent.next().await.is_some() {
            sender.send_modify(|count| *count += 1);
        }
    });
    receiver
}

/// A server with JetStream, which keeps everything in this directory.
fn server(directory: &Path) -> Command {
    let mut command = Command::new("nats-server");
    command
        .args(["-a", "127.0.0.1", "-js", "-sd"])
        .arg(directory.join("jetstream"))
        .arg("--ports_file_dir")
        .arg(directory)
        .stderr(Stdio::null());
    command
}

/// Waits until a server listens.
async fn url(directory: &Path, server: &Process) -> String {
    let ports = directory.join(format!("nats-server_{}.ports", server.0.id()));
    until_some("the server has written its port", async || {
        listens_at(&ports)
    })
    .await
}

fn listens_at(ports: &Path) -> Option<String> {
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(ports).ok()?).ok()?;
    Some(written["nats"][0].as_str()?.to_owned())
}

/// A client that waits for the servers of these URLs.
pub(crate) async fn client(urls: &str) -> async_nats::Client {
    let urls: Vec<&str> = urls.split(',').collect();
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    options.connect(urls).await.unwrap()
}

/// Three servers, of which any may be killed.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    _directory: TempDir,
}

struct Node {
    name: String,
    directory: PathBuf,
    /// For clients.
    port: u16,
    /// For the other servers.
    cluster_port: u16,
    process: Option<Process>,
}

impl Cluster {
    /// Starts three servers, and waits until streams with three replicas can be created.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = |number| Node {
            name: format!("n{number}"),
            directory: directory.path().join(format!("n{number}")),
            port: free_port(),
            cluster_port: free_port(),
            process: None,
        };
        let mut cluster = Self {
            nodes: (1..=3).map(node).collect(),
            _directory: directory,
        };
        for index in 0..cluster.nodes.len() {
            cluster.start_node(index).await;
        }
        let context = jetstream::new(client(&cluster.urls()).await);
        until("the servers have found each other", async || {
            let config = jetstream::stream::Config {
                name: "probe".to_owned(),
                num_replicas: 3,
                ..Default::default()
            };
            context.get_or_create_stream(config).await.is_ok()
        })
        .await;
        until("the probe is gone", async || {
            context.delete_stream("probe").await.is_ok()
                || context.get_stream("probe").await.is_err()
        })
        .await;
        cluster
    }

    /// The URLs of all servers.
    pub(crate) fn urls(&self) -> String {
        let urls = self
            .nodes
            .iter()
            .map(|node| format!("nats://127.0.0.1:{}", node.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// Kills the server of this name.
    pub(crate) fn kill(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        assert!(
            node.unwrap().process.take().is_some(),
            "{name} is not running"
        );
    }

    /// Starts the server of this name again, with the data that it had.
    pub(crate) async fn restart(&mut self, name: &str) {
        let index = self.nodes.iter().position(|node| node.name == name);
        self.start_node(index.unwrap()).await;
    }

    async fn start_node(&mut self, index: usize) {
        let routes: Vec<String> = self.nodes.iter().map(Node::route).collect();
        let node = &mut self.nodes[index];
        std::fs::create_dir_all(&node.directory).unwrap();
        let process = Process::start(
            server(&node.directory)
                .args(["-p", &node.port.to_string()])
                .args(["--name", &node.name, "--cluster_name", "test"])
                .args(["--cluster", &node.route(), "--routes", &routes.join(",")]),
        );
        url(&node.directory, &process).await;
        node.process = Some(process);
    }
}

impl Node {
    fn route(&self) -> String {
        format!("nats://127.0.0.1:{}", self.cluster_port)
    }
}
