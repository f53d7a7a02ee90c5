//! Sessions "inside": commands that play small parts (`cat`, `exit N`, `die N`, `size`, …), and a
//! console that says what is typed.
//!
//! Never here: a process.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use ves_proto::api::session_service_server::SessionService;
use ves_proto::api::*;
use ves_proto::{Fault, Reason};

use super::{Api, BoxStream};

type Answers<T> = mpsc::Sender<Result<T, Status>>;

/// Plays the command.
async fn exec(
    api: Api,
    start: ExecStart,
    mut requests: Streaming<ExecRequest>,
    answers: Answers<ExecResponse>,
) {
    use exec_response::Part;
    let send = async |part: Part| {
        answers.send(Ok(ExecResponse { part: Some(part), ..Default::default() })).await.ok();
    };
    let code = |code| Part::Exit(ExitStatus { how: Some(exit_status::How::Code(code)) });
    let argv: Vec<&str> = start.argv.iter().map(String::as_str).collect();
    if argv.first() == Some(&"missing") {
        let fault = Fault::new(Reason::CommandUnknown, "container 101 has no command missing");
        answers.send(Err(fault.into())).await.ok();
        return;
    }
    send(Part::Started(ExecStarted {})).await;
    let size = |s: &WindowSize| format!("{}x{}", s.rows, s.cols);
    if let Some(tty) = &start.tty {
        send(Part::Stdout(format!("tty {}\r\n", size(tty)).into_bytes().into())).await;
    }
    match argv.as_slice() {
        ["exit", status] => return send(code(status.parse().expect("a status"))).await,
        ["die", signal] => {
            let how = Some(exit_status::How::Signal(signal.parse().expect("a signal")));
            return send(Part::Exit(ExitStatus { how })).await;
        }
        ["both"] => {
            send(Part::Stdout(b"out\n".to_vec().into())).await;
            send(Part::Stderr(b"err\n".to_vec().into())).await;
            return send(code(0)).await;
        }
        ["cut"] => return,
        _ => {}
    }
    while let Ok(Some(next)) = requests.message().await {
        match next.part {
            Some(exec_request::Part::Stdin(bytes)) => {
                api.state().input.extend_from_slice(&bytes);
                send(Part::Stdout(bytes.clone())).await;
                if start.tty.is_some() && bytes.contains(&b'q') {
                    return send(code(9)).await;
                }
            }
            Some(exec_request::Part::StdinEnd(_)) if argv.first() != Some(&"sleep") => {
                return send(code(0)).await;
            }
            Some(exec_request::Part::Resize(s)) => {
                send(Part::Stdout(format!("resized {}\r\n", size(&s)).into_bytes().into())).await;
            }
            Some(exec_request::Part::Signal(n)) => return send(code(50 + n)).await,
            _ => {}
        }
    }
}

/// Plays the console: a prompt, then what is typed.
async fn console(
    api: Api,
    start: ConsoleStart,
    mut requests: Streaming<ConsoleRequest>,
    answers: Answers<ConsoleResponse>,
) {
    let say = |text: &[u8]| ConsoleResponse { output: text.to_vec().into() };
    answers.send(Ok(say(b"login: "))).await.ok();
    if start.scrollback_only {
        return;
    }
    loop {
        let Ok(Some(next)) = requests.message().await else { return };
        if let Some(console_request::Part::Stdin(b)) = next.part {
            api.state().input.extend_from_slice(&b);
            answers.send(Ok(say(&b))).await.ok();
        }
    }
}

#[tonic::async_trait]
impl SessionService for Api {
    type ExecStream = BoxStream<ExecResponse>;
    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a first message");
        self.called(&first)?;
        let Some(exec_request::Part::Start(start)) = first.part else {
            return Err(Fault::missing("start").into());
        };
        self.find(&start.container)?;
        let (answers, stream) = mpsc::channel(16);
        let api = self.clone();
        tokio::spawn(async move { exec(api, start, requests, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ConsoleStream = BoxStream<ConsoleResponse>;
    async fn console(
        &self,
        request: Request<Streaming<ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a first message");
        self.called(&first)?;
        let Some(console_request::Part::Start(start)) = first.part else {
            return Err(Fault::missing("start").into());
        };
        self.find(&start.container)?;
        let (answers, stream) = mpsc::channel(16);
        let api = self.clone();
        tokio::spawn(async move { console(api, start, requests, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
