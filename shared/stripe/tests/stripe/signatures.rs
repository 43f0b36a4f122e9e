//! Signatures of webhooks, with vectors of the official libraries.

use jiff::Timestamp;
use tollgate_stripe::outbound::{self, SignedHeaders, SigningSecret, VerifyError};
use tollgate_stripe::webhook::{self, EndpointSecret, SignatureError, TOLERANCE, verify_signature};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Vectors that `generateTestHeaderString` of npm `stripe` 23.1.0 computed.
#[test]
fn signatures_are_those_of_stripes_library() {
    let check = |body: &str, secret: &str, time: i64, header: &str| {
        let secret = EndpointSecret::parse(secret).unwrap();
        assert_eq!(webhook::sign(body.as_bytes(), &secret, at(time)), header);
        let verified = verify_signature(body.as_bytes(), header, &[secret], at(time), TOLERANCE);
        assert_eq!(verified, Ok(()));
    };
    check(
        r#"{"id":"evt_1","object":"event"}"#,
        "whsec_test_secret",
        1_700_000_000,
        "t=1700000000,v1=0c8670ed117751cc551a20e35839447075c42800ea3cf3e8a2fbda99cd1e6edd",
    );
    check(
        r#"{"description":"1–15 Nov ✓"}"#,
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        1_761_609_600,
        "t=1761609600,v1=f1407f6802ed5f2d70950b696563c9d313dfdad568ce86f9d62c09e4b18de43a",
    );
    check(
        " ",
        "whsec_x",
        1,
        "t=1,v1=9db470bffe12f25c70bdfe271b45448e0d87ec185f47902e8569b6412c702665",
    );
}

#[test]
fn a_signature_is_checked_for_form_match_and_age() {
    const BODY: &[u8] = br#"{"id":"evt_1","object":"event"}"#;
    const GOOD: &str = "0c8670ed117751cc551a20e35839447075c42800ea3cf3e8a2fbda99cd1e6edd";
    const BAD: &str = "0c8670ed117751cc551a20e35839447075c42800ea3cf3e8a2fbda99cd1e6ede";
    let secret = |text: &str| EndpointSecret::parse(text).unwrap();
    let [own, other] = [secret("whsec_test_secret"), secret("whsec_other")];
    let check_with = |secrets: &[EndpointSecret], body: &[u8], header: &str, now: i64, expected| {
        let now = at(now);
        assert_eq!(
            verify_signature(body, header, secrets, now, TOLERANCE),
            expected,
            "{header}"
        );
    };
    let check = |header: &str, expected| {
        check_with(
            std::slice::from_ref(&own),
            BODY,
            header,
            1_700_000_000,
            expected,
        );
    };
    let header = format!("t=1700000000,v1={GOOD}");

    check(&header, Ok(()));
    check(&format!("t=1700000000, v1={GOOD}"), Ok(()));
    check(&format!("v1={GOOD},t=1700000000"), Ok(()));
    check(&format!("t=1700000000,v1={BAD},v1={GOOD},v0={BAD}"), Ok(()));
    check(
        &format!("t=1700000000,v1=,v1=zz,v1={GOOD}00,v1={GOOD}"),
        Ok(()),
    );
    check(
        &format!("t=1700000000,v1={BAD}"),
        Err(SignatureError::NoMatch),
    );
    check(
        &format!("t=1700000001,v1={GOOD}"),
        Err(SignatureError::NoMatch),
    );
    check(
        &format!("t=01700000000,v1={GOOD}"),
        Err(SignatureError::NoMatch),
    );
    check(
        &format!("t=1700000000,v1={}", &GOOD[..62]),
        Err(SignatureError::NoMatch),
    );
    check(
        &format!("t=1700000000,v0={GOOD}"),
        Err(SignatureError::NoV1),
    );
    check("t=1700000000", Err(SignatureError::NoV1));
    for malformed in [
        "",
        "t",
        "v1",
        "t=",
        "t=x,v1=00",
        "t=1,t=1,v1=00",
        "t=99999999999999,v1=00",
    ] {
        check(malformed, Err(SignatureError::MalformedHeader));
    }
    check(&format!("v1={GOOD}"), Err(SignatureError::MalformedHeader));

    // While a secret is replaced there are two, in any order.
    for secrets in [[own.clone(), other.clone()], [other.clone(), own.clone()]] {
        check_with(&secrets, BODY, &header, 1_700_000_000, Ok(()));
    }
    check_with(
        &[other],
        BODY,
        &header,
        1_700_000_000,
        Err(SignatureError::NoMatch),
    );
    check_with(
        &[],
        BODY,
        &header,
        1_700_000_000,
        Err(SignatureError::NoMatch),
    );
    let secrets = [own];
    check_with(
        &secrets,
        b"{}",
        &header,
        1_700_000_000,
        Err(SignatureError::NoMatch),
    );
    check_with(&secrets, BODY, &header, 1_700_000_300, Ok(()));
    check_with(
        &secrets,
        BODY,
        &header,
        1_700_000_301,
        Err(SignatureError::TooOld),
    );
    check_with(&secrets, BODY, &header, 1_699_999_700, Ok(()));
    check_with(
        &secrets,
        BODY,
        &header,
        1_699_999_699,
        Err(SignatureError::InFuture),
    );
    // A forged time is no match, rather than too old: what is not signed says nothing.
    let forged = format!("t=1,v1={GOOD}");
    check_with(
        &secrets,
        BODY,
        &forged,
        1_700_000_000,
        Err(SignatureError::NoMatch),
    );
}

/// The first vector is the one that Standard Webhooks publishes; npm `standardwebhooks` 1.1.1 computed both.
#[test]
fn outbound_signatures_are_those_of_standard_webhooks() {
    let check = |id: &str, time: i64, body: &str, secret: &str, signature: &str| {
        let secret = SigningSecret::parse(secret).unwrap();
        let secrets = std::slice::from_ref(&secret);
        let headers = outbound::sign(id, at(time), body.as_bytes(), secrets);
        let expected = SignedHeaders {
            id: id.to_owned(),
            timestamp: time.to_string(),
            signature: signature.to_owned(),
        };
        assert_eq!(headers, expected);
        let verified = outbound::verify(&headers, body.as_bytes(), secrets, at(time), TOLERANCE);
        assert_eq!(verified, Ok(()));
    };
    check(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        r#"{"test": 2432232314}"#,
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    );
    check(
        "evt_01",
        1_761_609_600,
        r#"{"description":"1–15 Nov ✓"}"#,
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "v1,NA1Na7U+EtXlLqDVOOWSb+6RjGwjcxKj8qHtGOuySv4=",
    );
}

#[test]
fn an_outbound_message_is_checked_for_match_and_age() {
    let secret = |byte: u8| SigningSecret::from_bytes(&[byte; 32]).unwrap();
    let sent_at = at(1_700_000_000);
    let both = outbound::sign("msg_1", sent_at, b"{}", &[secret(1), secret(2)]);
    let check = |headers: &SignedHeaders, body: &[u8], secrets: &[u8], now: i64, expected| {
        let secrets: Vec<_> = secrets.iter().copied().map(secret).collect();
        let verified = outbound::verify(headers, body, &secrets, at(now), TOLERANCE);
        assert_eq!(verified, expected, "{headers:?}");
    };
    let now = 1_700_000_000;
    check(&both, b"{}", &[1], now, Ok(()));
    check(&both, b"{}", &[2], now, Ok(()));
    check(&both, b"{}", &[3, 2], now, Ok(()));
    check(&both, b"{}", &[3], now, Err(VerifyError::NoMatch));
    check(&both, b"{} ", &[1], now, Err(VerifyError::NoMatch));
    check(&both, b"{}", &[1], now + 300, Ok(()));
    check(&both, b"{}", &[1], now + 301, Err(VerifyError::TooOld));
    check(&both, b"{}", &[1], now - 301, Err(VerifyError::InFuture));
    let with = |change: fn(&mut SignedHeaders)| {
        let mut headers = both.clone();
        change(&mut headers);
        headers
    };
    let renamed = with(|headers| headers.id = "msg_2".to_owned());
    check(&renamed, b"{}", &[1], now, Err(VerifyError::NoMatch));
    let redated = with(|headers| headers.timestamp = "1700000001".to_owned());
    check(&redated, b"{}", &[1], now, Err(VerifyError::NoMatch));
    let undated = with(|headers| headers.timestamp = "now".to_owned());
    check(
        &undated,
        b"{}",
        &[1],
        now,
        Err(VerifyError::MalformedTimestamp),
    );
    let other = with(|headers| headers.signature = headers.signature.replace("v1,", "v2,"));
    check(&other, b"{}", &[1], now, Err(VerifyError::NoMatch));
    let none = with(|headers| headers.signature = "v1, v1,! v1".to_owned());
    check(&none, b"{}", &[1], now, Err(VerifyError::NoMatch));
}

#[test]
fn secrets_of_webhooks_have_a_form() {
    let check = |text: &str, endpoint: bool, signing: bool| {
        assert_eq!(EndpointSecret::parse(text).is_ok(), endpoint, "{text:?}");
        assert_eq!(SigningSecret::parse(text).is_ok(), signing, "{text:?}");
    };
    check("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true, true);
    check(" whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", true, true);
    check("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", false, false);
    check("whsec_", false, false);
    check("whsec_short", true, false);
    check("whsec_a b", false, false);
    check("sk_test_1", false, false);
    let secret = SigningSecret::from_bytes(&[7; 24]).unwrap();
    assert_eq!(SigningSecret::parse(&secret.expose()), Ok(secret));
    assert!(SigningSecret::from_bytes(&[7; 23]).is_err());
    assert!(SigningSecret::from_bytes(&[7; 65]).is_err());
}
