//! The gRPC face: parse, call, render. No decisions.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use ves_daemon::{CHANGE, Call, Done, Policy, READ};
use ves_init_proto::OnDisconnect;
use ves_init_proto::frame::{Frame, LONGEST, Tag};
use ves_init_proto::report::{Ended, SessionEnd};
use ves_init_proto::user::UserSpec;
use ves_proto::common::{ExitStatus, WindowSize, exit_status};
use ves_proto::convert::{
    parse_ct, parse_features, parse_fence, parse_grants, parse_list, parse_phase, parse_slot,
    render_exit_cause, render_phase,
};
use ves_proto::lifecycle::lifecycle_service_server::{LifecycleService, LifecycleServiceServer};
use ves_proto::public::parse_duration;
use ves_proto::{Fault, Reason, lifecycle as pb};
use ves_types::capability::MAX_CAPABILITIES;
use ves_types::spec::{MAX_RESOLVER_ENTRIES, parse_nameserver};
use ves_types::{CtId, Phase};

use crate::init_plan::Command;
use crate::plan::{Goal, Spec};
use crate::service::{Container, Service};

/// Full names of the gRPC services.
pub const SERVICES: &[&str] = &["ves.lifecycle.v1.LifecycleService"];

/// Who may call what.
pub const POLICY: Policy = &[
    ("/ves.lifecycle.v1.LifecycleService/EnsureContainer", CHANGE),
    ("/ves.lifecycle.v1.LifecycleService/GetContainer", READ),
    ("/ves.lifecycle.v1.LifecycleService/ListContainers", READ),
    ("/ves.lifecycle.v1.LifecycleService/WatchContainers", READ),
    ("/ves.lifecycle.v1.LifecycleService/Exec", CHANGE),
    ("/ves.lifecycle.v1.LifecycleService/Console", CHANGE),
];

/// The most bytes of a command and its environment: with what else its helper is told, they are one
/// frame. Two thirds of it, as a variable is told as a pair.
const COMMAND_MAX: usize = LONGEST / 3 * 2;

/// The routes of a service.
pub fn routes(service: Service) -> Routes {
    Routes::new(LifecycleServiceServer::new(Api { service }))
}

struct Api {
    service: Service,
}

fn bad(field: &str, why: impl Into<String>) -> Fault {
    Fault::new(Reason::BadValue, why).fact("field", field)
}

fn parse_spec(spec: pb::ContainerSpec) -> Result<Spec, Fault> {
    let pb::ContainerSpec {
        id_slot,
        hostname,
        init,
        nameservers,
        search_domains,
        max_ptys,
        shm_bytes,
        ram_bytes,
        grants,
        capabilities_off,
        features,
    } = spec;
    Ok(Spec {
        slot: parse_slot(id_slot)?,
        hostname: match hostname.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e| Fault::bad_value("spec.hostname", &e))?),
        },
        init: init.try_into().map_err(|e| Fault::bad_value("spec.init", &e))?,
        nameservers: parse_list(
            "spec.nameservers",
            &nameservers,
            MAX_RESOLVER_ENTRIES,
            parse_nameserver,
        )?,
        search: parse_list(
            "spec.search_domains",
            &search_domains,
            MAX_RESOLVER_ENTRIES,
            str::parse,
        )?,
        max_ptys,
        shm_bytes,
        ram_bytes,
        devices: parse_grants("spec.grants", &grants)?,
        capabilities_off: parse_list(
            "spec.capabilities_off",
            &capabilities_off,
            MAX_CAPABILITIES,
            str::parse,
        )?
        .into_iter()
        .collect(),
        features: parse_features(features).effective(),
    })
}

fn parse_goal(phase: pb::Phase, grace_ms: u32, only_if_running: bool) -> Result<Goal, Fault> {
    Ok(match parse_phase(phase)? {
        Phase::Absent => Goal::Absent { grace_ms },
        Phase::Created => Goal::Created,
        Phase::Running if only_if_running => Goal::StillRunning,
        Phase::Running => Goal::Running,
        Phase::Frozen => Goal::Frozen,
    })
}

fn render_ended(ended: Ended) -> ExitStatus {
    let how = match ended {
        Ended::Code(code) => exit_status::How::Code(code),
        Ended::Signal(signal) => exit_status::How::Signal(signal),
    };
    ExitStatus { how: Some(how) }
}

fn render(container: &Container) -> pb::Container {
    let Container {
        ct,
        generation,
        phase,
        init_pid,
        started_unix_ms,
        end,
        incarnation,
        booted,
        stopping,
        unresponsive,
    } = *container;
    pb::Container {
        ct: ct.get(),
        generation: generation.0,
        phase: render_phase(phase).into(),
        init_pid,
        started_unix_ms,
        end: render_exit_cause(end.map(|end| end.cause)).into(),
        end_status: end.map(|end| render_ended(end.ended)),
        incarnation,
        booted,
        unresponsive,
        stopping,
        steps: Vec::new(),
    }
}

/// Rows and columns; a side of 0 is what terminals had before windows.
fn parse_size(size: WindowSize) -> (u16, u16) {
    let WindowSize { rows, cols } = size;
    let side = |n: u32, usual: u16| match u16::try_from(n) {
        Ok(0) => usual,
        Ok(n) => n,
        Err(_) => u16::MAX,
    };
    (side(rows, 24), side(cols, 80))
}

/// How long a command may be given.
const TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// The longest path, as the kernel has it.
const PATH_MAX: usize = 4095;

fn parse_cwd(cwd: String) -> Result<Option<String>, Fault> {
    let refuse = |why: &str| Err(bad("start.cwd", format!("the directory {why}")));
    match cwd.as_str() {
        "" => Ok(None),
        _ if !cwd.starts_with('/') => refuse("must be given from / on"),
        _ if cwd.contains('\0') => refuse("must not contain a zero byte"),
        _ if cwd.len() > PATH_MAX => refuse("must not be longer than 4095 bytes"),
        _ => Ok(Some(cwd)),
    }
}

fn parse_user(user: &str) -> Result<Option<UserSpec>, Fault> {
    let parse = |user: &str| user.parse().map_err(|e| Fault::bad_value("start.user", &e));
    Some(user).filter(|user| !user.is_empty()).map(parse).transpose()
}

fn parse_timeout(timeout: Option<prost_types::Duration>) -> Result<Option<u64>, Fault> {
    let Some(timeout) = timeout else { return Ok(None) };
    let timeout = parse_duration("start.timeout", &timeout)?;
    if !TIMEOUTS.contains(&timeout) {
        return Err(bad("start.timeout", "a command may be given 1 second to 24 hours"));
    }
    Ok(u64::try_from(timeout.as_millis()).ok())
}

fn parse_on_disconnect(on_disconnect: i32) -> Result<OnDisconnect, Fault> {
    match pb::OnDisconnect::try_from(on_disconnect) {
        Ok(pb::OnDisconnect::Unspecified | pb::OnDisconnect::Kill) => Ok(OnDisconnect::Kill),
        Ok(pb::OnDisconnect::Leave) => Ok(OnDisconnect::Leave),
        Err(_) => {
            let why = format!("{on_disconnect} is neither KILL nor LEAVE");
            Err(bad("start.on_disconnect", why))
        }
    }
}

fn parse_start(start: pb::ExecStart) -> Result<(CtId, Command), Fault> {
    let pb::ExecStart { ct, argv, env, tty, bare_env, cwd, user, on_disconnect, timeout } = start;
    let ct = parse_ct(ct)?;
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(bad("start.argv", "no word of a command may contain a zero byte"));
    }
    if argv.first().is_some_and(String::is_empty) {
        return Err(bad("start.argv", "the name of a command must not be empty"));
    }
    // As they travel to the helper, where quotes and control characters take more room.
    let bytes = serde_json::to_vec(&(&argv, &env, &cwd)).unwrap_or_default().len();
    if bytes > COMMAND_MAX {
        let why = "the command and its environment are too long; use runscript for long scripts";
        return Err(bad("start.argv", why).fact("limit", COMMAND_MAX));
    }
    let env = env
        .into_iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
                Ok((name.to_owned(), value.to_owned()))
            }
            _ => Err(bad("start.env", format!("{text:?} is no NAME=VALUE"))),
        })
        .collect::<Result<_, _>>()?;
    let command = Command {
        argv,
        env,
        terminal: tty.map(parse_size),
        bare: bare_env,
        cwd: parse_cwd(cwd)?,
        user: parse_user(&user)?,
        on_disconnect: parse_on_disconnect(on_disconnect)?,
        timeout_ms: parse_timeout(timeout)?,
    };
    Ok((ct, command))
}

/// Input in as many frames as it needs.
fn input(bytes: &[u8]) -> Vec<Frame> {
    bytes.chunks(LONGEST).map(|piece| Frame::new(Tag::Input, piece)).collect()
}

fn exec_frame(request: pb::ExecRequest) -> Vec<Frame> {
    use pb::exec_request::Part;
    match request.part {
        // Only the first message may be a start.
        None | Some(Part::Start(_) | Part::StdinClosed(false)) => Vec::new(),
        Some(Part::Stdin(bytes)) => input(&bytes),
        Some(Part::StdinClosed(true)) => vec![Frame::new(Tag::InputEnd, [])],
        Some(Part::Resize(size)) => {
            let (rows, cols) = parse_size(size);
            vec![Frame::resize(rows, cols)]
        }
        Some(Part::Signal(signal)) => {
            let number = u8::try_from(signal).ok();
            number.map(|number| Frame::new(Tag::Signal, [number])).into_iter().collect()
        }
    }
}

fn exec_answer(frame: Frame) -> Option<pb::ExecResponse> {
    use pb::exec_response::Part;
    let mut timed_out = false;
    let part = match frame.tag {
        Tag::Output => Part::Stdout(frame.payload.into()),
        Tag::ErrorOutput => Part::Stderr(frame.payload.into()),
        Tag::Ended => {
            let end: SessionEnd = frame.parse()?;
            timed_out = end.timed_out;
            Part::Exit(render_ended(end.ended))
        }
        Tag::Request
        | Tag::Input
        | Tag::InputEnd
        | Tag::Resize
        | Tag::Signal
        | Tag::Close
        | Tag::HangUp
        | Tag::Started
        | Tag::Failed
        | Tag::Answer => return None,
    };
    Some(pb::ExecResponse { part: Some(part), timed_out })
}

fn console_frame(request: pb::ConsoleRequest) -> Vec<Frame> {
    use pb::console_request::Part;
    match request.part {
        None | Some(Part::Start(_)) => Vec::new(),
        Some(Part::Stdin(bytes)) => input(&bytes),
        Some(Part::Resize(size)) => {
            let (rows, cols) = parse_size(size);
            vec![Frame::resize(rows, cols)]
        }
    }
}

fn console_answer(frame: Frame) -> Option<pb::ConsoleResponse> {
    (frame.tag == Tag::Output).then_some(pb::ConsoleResponse { output: frame.payload.into() })
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The first message of a session.
async fn first<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    requests.message().await?.ok_or_else(|| Fault::missing("start").into())
}

#[tonic::async_trait]
impl LifecycleService for Api {
    type WatchContainersStream = Answers<pb::Container>;
    type ExecStream = Answers<pb::ExecResponse>;
    type ConsoleStream = Answers<pb::ConsoleResponse>;

    async fn ensure_container(
        &self,
        request: Request<pb::EnsureContainerRequest>,
    ) -> Result<Response<pb::Container>, Status> {
        let request = request.into_inner();
        let phase = request.phase();
        let pb::EnsureContainerRequest {
            fence,
            spec,
            phase: _,
            grace_ms,
            dry_run,
            only_if_running,
        } = request;
        let call = Call { fence: parse_fence(fence)?, dry_run };
        let goal = parse_goal(phase, grace_ms, only_if_running)?;
        let spec = spec.map(parse_spec).transpose()?;
        let Done { answer, steps } = self.service.ensure(call, goal, spec).await?;
        let planned = || pb::Container { ct: call.fence.ct.get(), ..pb::Container::default() };
        let shown = answer.as_ref().map_or_else(planned, render);
        Ok(Response::new(pb::Container { steps, ..shown }))
    }

    async fn get_container(
        &self,
        request: Request<pb::GetContainerRequest>,
    ) -> Result<Response<pb::Container>, Status> {
        let pb::GetContainerRequest { ct } = request.into_inner();
        Ok(Response::new(render(&self.service.get(parse_ct(ct)?).await?)))
    }

    async fn list_containers(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Result<Response<pb::ListContainersResponse>, Status> {
        let pb::ListContainersRequest {} = request.into_inner();
        let containers = self.service.list().await?.iter().map(render).collect();
        Ok(Response::new(pb::ListContainersResponse { containers }))
    }

    async fn watch_containers(
        &self,
        request: Request<pb::WatchContainersRequest>,
    ) -> Result<Response<Self::WatchContainersStream>, Status> {
        use tokio::sync::broadcast::error::RecvError;
        let pb::WatchContainersRequest {} = request.into_inner();
        let service = self.service.clone();
        // Changes first, so that none falls between them and the list.
        let mut changes = service.changes();
        let present = service.list().await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let mut batch = present;
            loop {
                for container in batch {
                    if sender.send(Ok(render(&container))).await.is_err() {
                        return;
                    }
                }
                let next = tokio::select! {
                    // Nothing is received and lost here when the caller goes, for it goes too.
                    next = changes.recv() => next,
                    () = sender.closed() => return,
                };
                batch = match next {
                    Ok(container) => vec![container],
                    // Too slow: everything anew is as good as each change.
                    Err(RecvError::Lagged(_)) => match service.list().await {
                        Ok(list) => list,
                        Err(fault) => {
                            // The caller sees the end either way.
                            sender.send(Err(fault.into())).await.ok();
                            return;
                        }
                    },
                    Err(RecvError::Closed) => return,
                };
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn exec(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        use pb::exec_request::Part;
        let mut requests = request.into_inner();
        let Some(Part::Start(start)) = first(&mut requests).await?.part else {
            return Err(Fault::missing("start").into());
        };
        let (ct, command) = parse_start(start)?;
        let started = self.service.exec(ct, command).await?;
        let part = pb::exec_response::Part::Started(true);
        let first = pb::ExecResponse { part: Some(part), timed_out: false };
        let rest = ReceiverStream::new(started.drive(requests, exec_frame, exec_answer));
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(rest))))
    }

    async fn console(
        &self,
        request: Request<Streaming<pb::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        use pb::console_request::Part;
        let mut requests = request.into_inner();
        let Some(Part::Start(start)) = first(&mut requests).await?.part else {
            return Err(Fault::missing("start").into());
        };
        let pb::ConsoleStart { ct, size, scrollback_only } = start;
        let ct = parse_ct(ct)?;
        let started = self.service.console(ct, scrollback_only).await?;
        // The size comes as if it were the first thing the caller says.
        let size = size
            .filter(|_| !scrollback_only)
            .map(|size| Ok(pb::ConsoleRequest { part: Some(Part::Resize(size)) }));
        let requests = tokio_stream::iter(size).chain(requests);
        let answers = started.drive(requests, console_frame, console_answer);
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_its_row() {
        ves_daemon::check_service_policy(SERVICES, POLICY).expect("policy and descriptors agree");
    }

    fn spec() -> pb::ContainerSpec {
        pb::ContainerSpec { id_slot: 20, hostname: "web".to_owned(), ..Default::default() }
    }

    #[test]
    fn bad_values_name_their_field() {
        let field = |s: pb::ContainerSpec| parse_spec(s).map_err(|f| f.facts["field"].clone());
        assert!(field(spec()).is_ok());
        let words = |w: &[&str]| w.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (bad, name) in [
            (pb::ContainerSpec { id_slot: 3, ..spec() }, "id_slot"),
            (pb::ContainerSpec { hostname: "a_b".to_owned(), ..spec() }, "spec.hostname"),
            (pb::ContainerSpec { init: words(&["init"]), ..spec() }, "spec.init"),
            (pb::ContainerSpec { init: words(&["/a", "b\0"]), ..spec() }, "spec.init"),
            (pb::ContainerSpec { nameservers: words(&["x"]), ..spec() }, "spec.nameservers"),
            (
                pb::ContainerSpec { search_domains: words(&["a b\nevil"]), ..spec() },
                "spec.search_domains",
            ),
            (pb::ContainerSpec { init: vec!["/a".to_owned(); 65], ..spec() }, "spec.init"),
        ] {
            assert_eq!(field(bad), Err(name.to_owned()));
        }
    }

    #[test]
    fn bad_commands_name_their_field() {
        let field = |start: pb::ExecStart| parse_start(start).map_err(|f| f.facts["field"].clone());
        let start = |argv: &[&str], env: &[&str]| pb::ExecStart {
            ct: 9,
            argv: argv.iter().map(ToString::to_string).collect(),
            env: env.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        assert!(field(start(&["ls", "-l"], &["A=", "B=c=d"])).is_ok());
        assert!(field(start(&[], &[])).is_ok());
        assert_eq!(field(start(&[""], &[])), Err("start.argv".to_owned()));
        assert_eq!(field(start(&["a\0"], &[])), Err("start.argv".to_owned()));
        let long = "x".repeat(COMMAND_MAX);
        assert_eq!(field(start(&["sh", "-c", &long], &[])), Err("start.argv".to_owned()));
        let quotes = "\"".repeat(COMMAND_MAX / 2);
        assert_eq!(field(start(&["sh", "-c", &quotes], &[])), Err("start.argv".to_owned()));
        let most = "x".repeat(COMMAND_MAX - 100);
        assert!(field(start(&["sh", "-c", &most], &[])).is_ok());
        assert_eq!(field(start(&["a"], &["=x"])), Err("start.env".to_owned()));
        assert_eq!(field(start(&["a"], &["novalue"])), Err("start.env".to_owned()));
        let plain = || start(&["true"], &[]);
        let time = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        for timeout in [time(1, 0), time(86_400, 0), time(1, 999_999_999)] {
            assert!(field(pb::ExecStart { timeout, ..plain() }).is_ok(), "{timeout:?}");
        }
        for timeout in [time(0, 0), time(0, 999_999_999), time(-5, 0), time(86_400, 1)] {
            let refused = field(pb::ExecStart { timeout, ..plain() });
            assert_eq!(refused, Err("start.timeout".to_owned()), "{timeout:?}");
        }
        for cwd in ["tmp", "./x", "/a\0", &format!("/{}", "x".repeat(PATH_MAX))] {
            let refused = field(pb::ExecStart { cwd: cwd.to_owned(), ..plain() });
            assert_eq!(refused, Err("start.cwd".to_owned()), "{cwd:?}");
        }
        for user in ["a b", ":", "65535", "a:b:c", "../x"] {
            let refused = field(pb::ExecStart { user: user.to_owned(), ..plain() });
            assert_eq!(refused, Err("start.user".to_owned()), "{user:?}");
        }
        let refused = field(pb::ExecStart { on_disconnect: 3, ..plain() });
        assert_eq!(refused, Err("start.on_disconnect".to_owned()));
    }

    #[test]
    fn input_of_any_length_is_frames() {
        use pb::exec_request::Part;
        let bytes: Vec<u8> = (0..=255).cycle().take(LONGEST * 2 + 1).collect();
        let request = pb::ExecRequest { part: Some(Part::Stdin(bytes.clone().into())) };
        let frames = exec_frame(request);
        assert!(frames.iter().all(|f| f.tag == Tag::Input && f.payload.len() <= LONGEST));
        assert_eq!(frames.into_iter().flat_map(|f| f.payload).collect::<Vec<_>>(), bytes);
    }

    #[test]
    fn sizes_are_usable() {
        assert_eq!(parse_size(WindowSize { rows: 0, cols: 100_000 }), (24, u16::MAX));
    }
}
