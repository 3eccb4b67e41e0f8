//! Entries: what operators write, agents see.

use finial_proto::pb::spire::api::server::entry::v1 as pb;
use finial_proto::pb::spire::api::types;
use tonic::Code;

use crate::support::{TestAgent, TestServer, entry, selector};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_seen_by_the_agent_at_once_and_says_its_revision() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let request = pb::BatchCreateEntryRequest {
        entries: vec![entry(&agent.id, "/web")],
        output_mask: None,
    };
    let response = server.entries().batch_create_entry(request).await.unwrap();
    let revision = response.metadata().get("finial-revision").cloned();
    assert!(revision.unwrap().to_str().unwrap().parse::<u64>().unwrap() > 0);
    let id = response.into_inner().results[0].entry.clone().unwrap().id;
    assert_eq!(agent.authorized().await, std::slice::from_ref(&id));

    let request = pb::BatchDeleteEntryRequest {
        ids: vec![id, "none".to_owned(), String::new()],
    };
    let results = server.entries().batch_delete_entry(request).await.unwrap();
    let codes: Vec<_> = results
        .into_inner()
        .results
        .into_iter()
        .map(|result| {
            let status = result.status.unwrap();
            (status.code, status.message)
        })
        .collect();
    assert_eq!(
        codes,
        [
            (0, "OK".to_owned()),
            (5, "entry not found".to_owned()),
            (3, "missing entry ID".to_owned())
        ]
    );
    assert_eq!(agent.authorized().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_batch_fail_one_by_one() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let good = entry(&agent.id, "/a");
    let mut bare = entry(&agent.id, "/b");
    bare.selectors.clear();
    let mut own = entry(&agent.id, "/c");
    own.federates_with = vec!["example.org".to_owned()];
    let mut unknown = entry(&agent.id, "/d");
    unknown.federates_with = vec!["other.org".to_owned()];
    let batch = vec![good.clone(), bare, good, own, unknown];
    let results = server.try_create(batch).await;

    let codes: Vec<_> = results.iter().map(|(status, _)| status.code).collect();
    assert_eq!(codes, [0, 3, 6, 3, 13]);
    assert_eq!(
        results[1].0.message,
        "failed to convert entry: selector list is empty"
    );
    assert_eq!(results[2].0.message, "similar entry already exists");
    assert_eq!(
        results[2].1.as_ref().unwrap().id,
        results[0].1.as_ref().unwrap().id
    );
    assert!(results[3].0.message.contains("own trust domain"));
    assert!(
        results[4]
            .0
            .message
            .contains("unable to find federated bundle \"spiffe://other.org\""),
        "{}",
        results[4].0.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_mask_changes_only_what_it_names() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let created = server.create(vec![entry(&agent.id, "/web")]).await;
    let request = pb::BatchUpdateEntryRequest {
        entries: vec![types::Entry {
            id: created[0].id.clone(),
            hint: "internal".to_owned(),
            ..Default::default()
        }],
        input_mask: Some(types::EntryMask {
            hint: true,
            ..Default::default()
        }),
        output_mask: None,
    };
    let response = server.entries().batch_update_entry(request).await.unwrap();
    let updated = response.into_inner().results.remove(0).entry.unwrap();
    assert_eq!(
        updated,
        types::Entry {
            hint: "internal".to_owned(),
            revision_number: 1,
            ..created[0].clone()
        }
    );

    let request = pb::BatchUpdateEntryRequest {
        entries: vec![types::Entry {
            id: "none".to_owned(),
            ..entry(&agent.id, "/x")
        }],
        ..Default::default()
    };
    let response = server.entries().batch_update_entry(request).await.unwrap();
    let status = response.into_inner().results.remove(0).status.unwrap();
    assert_eq!(
        (status.code, status.message.as_str()),
        (5, "failed to update entry")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_until_an_empty_one() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let entries = (0..5)
        .map(|number| entry(&agent.id, &format!("/w{number}")))
        .collect();
    server.create(entries).await;

    let mut token = String::new();
    let mut sizes = Vec::new();
    loop {
        let request = pb::ListEntriesRequest {
            page_size: 2,
            page_token: token,
            ..Default::default()
        };
        let page = server.entries().list_entries(request).await.unwrap();
        let page = page.into_inner();
        sizes.push(page.entries.len());
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1, 0]);

    let request = pb::ListEntriesRequest {
        page_size: 2,
        page_token: "x".to_owned(),
        ..Default::default()
    };
    let refused = server.entries().list_entries(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("could not parse token 'x'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_checked_and_applied() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    server
        .create(vec![entry(&agent.id, "/a"), entry(&agent.id, "/b")])
        .await;
    let count = |filter: pb::count_entries_request::Filter| {
        let mut client = server.entries();
        async move {
            let request = pb::CountEntriesRequest {
                filter: Some(filter),
            };
            client
                .count_entries(request)
                .await
                .map(|response| response.into_inner().count)
        }
    };
    let by_selectors = pb::count_entries_request::Filter {
        by_selectors: Some(types::SelectorMatch {
            selectors: vec![selector("unix", "user:/a")],
            r#match: 3,
        }),
        ..Default::default()
    };
    assert_eq!(count(by_selectors).await.unwrap(), 1);
    let not_downstream = pb::count_entries_request::Filter {
        by_downstream: Some(false),
        ..Default::default()
    };
    assert_eq!(count(not_downstream).await.unwrap(), 2);
    let empty = pb::count_entries_request::Filter {
        by_selectors: Some(types::SelectorMatch::default()),
        ..Default::default()
    };
    assert_eq!(
        count(empty).await.unwrap_err().message(),
        "malformed selectors filter: empty selector set"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_set_is_synchronised_in_one_message() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    server.create(vec![entry(&agent.id, "/web")]).await;

    let first = pb::SyncAuthorizedEntriesRequest::default();
    let mut replies = sync(&agent, vec![first]).await;
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!(reply.entries.len(), 1);
    assert!(!reply.more);
    assert_eq!(replies.message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_set_revisions_come_first_and_entries_when_asked_for() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let entries = (0..1100)
        .map(|number| entry(&agent.id, &format!("/w{number}")))
        .collect();
    let ids: Vec<_> = server
        .create(entries)
        .await
        .into_iter()
        .map(|entry| entry.id)
        .collect();

    let mut wanted = ids.clone();
    wanted.push("unknown".to_owned());
    let requests = vec![
        pb::SyncAuthorizedEntriesRequest::default(),
        pb::SyncAuthorizedEntriesRequest {
            ids: wanted,
            output_mask: None,
        },
        pb::SyncAuthorizedEntriesRequest {
            ids: vec!["unknown".to_owned()],
            output_mask: None,
        },
    ];
    let mut replies = sync(&agent, requests).await;
    let mut shape = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        shape.push((reply.entry_revisions.len(), reply.entries.len(), reply.more));
    }
    assert_eq!(
        shape,
        [
            (500, 0, true),
            (500, 0, true),
            (100, 0, false),
            (0, 500, true),
            (0, 500, true),
            (0, 100, false),
            (0, 0, false),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_sync_request_is_checked() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    for (request, message) in [
        (
            pb::SyncAuthorizedEntriesRequest {
                ids: vec!["x".to_owned()],
                output_mask: None,
            },
            "specifying IDs on initial request is not supported",
        ),
        (
            pb::SyncAuthorizedEntriesRequest {
                ids: Vec::new(),
                output_mask: Some(types::EntryMask::default()),
            },
            "revision number cannot be masked",
        ),
    ] {
        let refused = sync(&agent, vec![request]).await.message().await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, message)
        );
    }
}

async fn sync(
    agent: &TestAgent,
    requests: Vec<pb::SyncAuthorizedEntriesRequest>,
) -> tonic::Streaming<pb::SyncAuthorizedEntriesResponse> {
    agent
        .entries()
        .sync_authorized_entries(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner()
}
