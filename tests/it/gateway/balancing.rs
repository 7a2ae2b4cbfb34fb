//! Who gets the next request.

use std::collections::HashSet;
use std::thread;

use serde_json::json;

use super::{NO_FIRST_LINE, Whole};
use crate::support::http::send;
use crate::support::poll;
use crate::support::token::bearer;

/// How many more requests each upstream has had than before.
fn since(whole: &Whole, before: &[usize]) -> Vec<usize> {
    let now = whole.asked();
    now.iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect()
}

#[test]
fn one_after_the_other() {
    let whole = Whole::alone(&[]);
    for page in 0..30 {
        assert_eq!(whole.code(&format!("/docs?{page}")), 200);
    }
    assert_eq!(whole.asked(), [10, 10, 10, 0]);
}

#[test]
fn whoever_has_the_fewest_under_way() {
    let whole = Whole::alone(&[]);
    whole.upstreams[0].hold(true);
    let address = whole.envoy.address;
    let mut held = Vec::new();
    // Others answer what is held by nobody.
    poll::until("some to be held by one", || {
        held.push(thread::spawn(move || {
            send(address, "GET", "/held", &[], "")
        }));
        (whole.upstreams[0].holding() >= 3).then_some(())
    });
    poll::until("the others to be idle", || {
        let answered = held.iter().filter(|held| held.is_finished()).count();
        (answered + whole.upstreams[0].holding() == held.len()).then_some(())
    });
    let before = whole.asked();
    for _ in 0..60 {
        assert_eq!(whole.code("/"), 200);
    }
    // Of two that are drawn it is the one with fewer: only both draws of one host take it.
    let shares = since(&whole, &before);
    assert!(
        shares[0] < 16 && shares[1] > 10 && shares[2] > 10,
        "{shares:?}"
    );
    whole.upstreams[0].hold(false);
    for held in held {
        held.join().expect("no panic");
    }
}

#[test]
fn a_new_version_gets_a_tenth() {
    let whole = Whole::alone(&[NO_FIRST_LINE]);
    for _ in 0..400 {
        assert_eq!(whole.code("/identify"), 200);
    }
    let asked = whole.asked();
    // 40 on average; 15 is five standard deviations off on the one side, 70 on the other.
    assert!((12..=72).contains(&asked[3]), "{asked:?}");
    assert_eq!(asked.iter().sum::<usize>(), 400);
}

#[test]
fn a_user_comes_to_the_same_upstream_and_leaves_it_only_with_it() {
    let whole = Whole::alone(&[]);
    let users: Vec<String> = (0..60)
        .map(|n| bearer(&json!({"sub": format!("user-{n}")})))
        .collect();
    let place = |token: &str| {
        let reply = whole.get("/api/v1/chat/send", &[("authorization", token)]);
        assert_eq!(reply.code, 200, "{reply:?}");
        reply.one("x-served-by").to_owned()
    };
    let places: Vec<String> = users.iter().map(|user| place(user)).collect();
    assert_eq!(places.iter().collect::<HashSet<_>>().len(), 3, "{places:?}");
    for (user, at) in users.iter().zip(&places) {
        assert_eq!(place(user), *at);
    }
    // Nobody is somebody by address.
    let anonymous: HashSet<String> = (0..6)
        .map(|_| whole.get("/api/v1/chat", &[]).one("x-served-by").to_owned())
        .collect();
    assert_eq!(anonymous.len(), 1);
    let gone = whole.upstreams[0].port.to_string();
    whole.upstreams[0].kill();
    poll::until("it to be left out", || {
        (whole.healthy("chat") == 2).then_some(())
    });
    let after: Vec<String> = users.iter().map(|user| place(user)).collect();
    assert!(!after.contains(&gone));
    // Those that stay get more places on the ring, which a few come to: a sixth, on average.
    let moved = |(before, after): &(&String, &String)| **before != gone && before != after;
    let moved = places.iter().zip(&after).filter(moved).count();
    assert!(moved < 20, "{moved} of 60");
}

#[test]
fn who_is_not_well_is_left_out_until_it_is() {
    let whole = Whole::alone(&[]);
    whole.upstreams[1].set_healthy(false);
    poll::until("it to be left out", || {
        (whole.healthy("docs") == 2).then_some(())
    });
    let before = whole.asked();
    for page in 0..20 {
        assert_eq!(whole.code(&format!("/docs?{page}")), 200);
    }
    assert_eq!(since(&whole, &before), [10, 0, 10, 0]);
    whole.upstreams[1].set_healthy(true);
    poll::until("it to be back", || {
        (whole.healthy("docs") == 3).then_some(())
    });
    let before = whole.asked();
    for page in 20..50 {
        assert_eq!(whole.code(&format!("/docs?{page}")), 200);
    }
    assert!(since(&whole, &before)[1] >= 9);
}
