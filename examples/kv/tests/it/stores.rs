//! What keeps the log: in files or, where the program was built with it, by RocksDB.

#[cfg(feature = "rocksdb")]
use crate::harness::{Cluster, run, text};

/// The same server, driven the same way; and the other kind of log is refused by name.
#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_log_is_served_inspected_and_never_taken_for_the_other() {
    for (kind, other) in [("file", "rocksdb"), ("rocksdb", "file")] {
        let mut cluster = Cluster::three(&["--store", kind]).await;
        for n in 0..50 {
            cluster.servers[0].ask::<i64>(&["INCRBY", "count", &n.to_string()]).await.unwrap();
        }
        for server in &mut cluster.servers {
            server.kill();
            server.start(&["--store", kind]);
        }
        cluster.leader().await;
        assert_eq!(cluster.servers[0].ask::<i64>(&["GET", "count"]).await.unwrap(), 1225);
        let server = &mut cluster.servers[0];
        assert!(server.terminate().await.success());

        let said = server.fails(&["--store", other]);
        assert!(said.contains(&format!("was made with `--store {kind}`")), "{said}");
        let data = server.data();
        let inspect = |flags: &[&str]| {
            let data = data.to_str().expect("text");
            let output = run(&[&["inspect", "--data-dir", data, "--verify"], flags].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        let said = inspect(&[]);
        assert!(said.contains(&format!("\nstore       {kind}\n")), "{said}");
        assert!(said.contains("\nverified    "), "{said}");
        let said: serde_json::Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
        assert_eq!((&said["store"], &said["verified"]), (&kind.into(), &true.into()));
        server.start(&["--store", kind]);
        cluster.leader().await;
    }
}

/// Built without it, the program says so.
#[cfg(not(feature = "rocksdb"))]
#[test]
fn a_program_without_rocksdb_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let server = crate::harness::Server::new(directory.path(), "a");
    let said = server.fails(&["--store", "rocksdb", "--bootstrap"]);
    assert!(said.contains("was built without it") && said.contains("--features rocksdb"), "{said}");
}
