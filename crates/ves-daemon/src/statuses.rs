//! Statuses that no code of ours has made: of the gRPC library, which read no request or found no RPC. They get
//! the code and the details that ours have, so that programs find a reason in each.
//!
//! Never here: statuses of a standard protocol, such as health, which says itself what they mean.

use http::HeaderMap;
use tonic::{Code, Status};
use ves_proto::{Fault, Reason};

/// How the library begins to say what is wrong with a request that it cannot read: of other errors within it
/// such a status does not tell.
const UNREADABLE: [&str; 5] = [
    "failed to decode Protobuf message",
    "protocol error: received message with",
    "Error decompressing",
    "Unexpected EOF decoding stream",
    "Missing request message",
];

/// Gives the failure in these headers or trailers what it lacks, if it lacks it.
pub(crate) fn complete(headers: &mut HeaderMap) {
    if !headers.contains_key(Status::GRPC_STATUS) || headers.contains_key("grpc-status-details-bin")
    {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    if let Some(fault) = fault(status.code(), status.message()) {
        // What is no header's value cannot be told; then it stays as it is.
        Status::from(fault).add_header(headers).ok();
    }
}

/// What such a status means; nothing where it is none that the library makes of a call of ours.
fn fault(code: Code, said: &str) -> Option<Fault> {
    let unreadable = || {
        let message = format!("the request cannot be read: {said}");
        Fault::new(Reason::BadValue, message).fact("field", "")
    };
    let reason = match code {
        Code::OutOfRange | Code::InvalidArgument => return Some(unreadable()),
        Code::Internal if UNREADABLE.iter().any(|begin| said.starts_with(begin)) => {
            return Some(unreadable());
        }
        Code::Unimplemented => Reason::NotBuilt,
        Code::DeadlineExceeded => Reason::Timeout,
        Code::ResourceExhausted => Reason::TooMany,
        Code::PermissionDenied => Reason::NotAllowed,
        Code::Internal | Code::Unknown | Code::DataLoss => Reason::Bug,
        Code::Ok
        | Code::Cancelled
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::Unauthenticated => return None,
    };
    Some(Fault::new(reason, said).fact("what", said))
}

#[cfg(test)]
mod tests {
    use tonic_prost::prost::Message as _;

    use super::*;

    fn completed(status: &Status) -> (Code, Fault, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert("x-other", http::HeaderValue::from_static("stays"));
        status.add_header(&mut headers).expect("text");
        complete(&mut headers);
        assert_eq!(headers["x-other"], "stays");
        let status = Status::from_header_map(&headers).expect("it is still one");
        (status.code(), Fault::from(status), headers)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test plays the library")]
    fn what_the_library_makes_has_a_reason_and_a_code_of_ours() {
        let undecodable =
            ves_proto::network::GetNodeRequest::decode(&b"\xff"[..]).expect_err("no message");
        for (status, reason) in [
            (Status::out_of_range("Error, decoded message length too large"), Reason::BadValue),
            (Status::internal(undecodable.to_string()), Reason::BadValue),
            (Status::internal("Missing request message."), Reason::BadValue),
            (Status::unimplemented("Content is compressed with `gzip`"), Reason::NotBuilt),
            (Status::deadline_exceeded(""), Reason::Timeout),
            (Status::internal("Error encoding: no room"), Reason::Bug),
            (Status::unknown("Service was not ready"), Reason::Bug),
        ] {
            let (code, fault, headers) = completed(&status);
            assert_eq!(
                (code, fault.reason),
                (ves_proto::fault::code_of(reason), reason),
                "{status}"
            );
            assert!(headers.contains_key("grpc-status-details-bin"), "{status}");
            assert!(fault.message.contains(status.message()), "{fault}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test plays the library")]
    fn ours_and_what_says_enough_stay() {
        for status in [
            Status::from(Fault::new(Reason::Busy, "somebody works on it")),
            Status::new(Code::Ok, ""),
            Status::unavailable("elsewhere"),
        ] {
            let mut before = HeaderMap::new();
            status.add_header(&mut before).expect("text");
            let mut after = before.clone();
            complete(&mut after);
            assert_eq!(after, before);
        }
        let mut none = HeaderMap::new();
        complete(&mut none);
        assert!(none.is_empty());
    }
}
