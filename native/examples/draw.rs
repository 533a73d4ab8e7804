// Draws two images at once, on two threads, through the C ABI. Only rustc is needed to build it:
//
//     rustc -O draw.rs -L DIR -l janus_edge -C link-arg=-Wl,-rpath,DIR
//
// usage: draw BUNDLE PROMPT [ONNXRUNTIME]
use std::ffi::{c_void, CStr, CString};
use std::mem::size_of;
use std::process::ExitCode;
use std::ptr;

/// The C structs with the fields of janus_edge.h, in the same order.
mod ffi {
    use std::ffi::{c_char, c_void};

    #[repr(C)]
    pub struct Options {
        pub size: u32,
        pub num_threads: i32,
        pub onnxruntime: *const c_char,
        pub device: *const c_char,
        pub check_all: i32,
        pub context_mb: i32,
        pub log: Option<extern "C" fn(*mut c_void, i32, *const c_char)>,
        pub log_context: *mut c_void,
    }

    #[repr(C)]
    pub struct Image {
        pub pixels: *const u8,
        pub width: i32,
        pub height: i32,
        pub stride: i32,
        pub channels: i32,
    }

    #[repr(C)]
    pub struct Request {
        pub size: u32,
        pub task: i32,
        pub prompt: *const c_char,
        pub seed: u64,
        pub temperature: f64,
        pub top_p: f64,
        pub more_prompts: *const *const c_char,
        pub num_more_prompts: usize,
        pub num_images: i32,
        pub previews: i32,
        pub reference: i32,
        pub top_k: i32,
        pub guidance_scale: f64,
        pub num_steps: i32,
        pub parallel: i32,
        pub solver: *const c_char,
        pub shift: f64,
        pub guidance_start: f64,
        pub guidance_end: f64,
        pub input_images: *const Image,
        pub num_input_images: usize,
        pub history: *const c_void,
        pub num_history: usize,
        pub max_tokens: i32,
        pub window: i32,
    }

    #[repr(C)]
    pub struct Event {
        pub size: u32,
        pub kind: i32,
        pub elapsed_ms: f64,
        pub done: i64,
        pub total: i64,
        pub unit: *const c_char,
        pub text: *const c_char,
        pub text_length: usize,
        pub index: i64,
        pub seed: u64,
        pub image: Image,
        pub codes: *const i32,
        pub num_codes: usize,
        pub latent: *const f32,
        pub num_latent: usize,
        pub approximate: i32,
    }

    pub const EVENT_IMAGE: i32 = 3;

    #[link(name = "janus_edge")]
    extern "C" {
        pub fn je_error() -> *const c_char;
        pub fn je_options_init(options: *mut Options, size: u32);
        pub fn je_session_open(bundle: *const c_char, options: *const Options, session: *mut *mut c_void) -> i32;
        pub fn je_session_close(session: *mut c_void);
        pub fn je_request_init(request: *mut Request, size: u32);
        pub fn je_job_start(session: *mut c_void, request: *const Request, job: *mut *mut c_void) -> i32;
        pub fn je_job_next(job: *mut c_void, event: *mut Event) -> i32;
        pub fn je_job_free(job: *mut c_void);
        pub fn je_image_save(path: *const c_char, image: *const Image, texts: *const *const c_char, count: usize) -> i32;
    }
}

/// Return the status, or the line of je_error() if it is negative.
fn check(status: i32) -> Result<i32, String> {
    if status < 0 {
        return Err(unsafe { CStr::from_ptr(ffi::je_error()) }.to_string_lossy().into_owned());
    }
    Ok(status)
}

/// An open bundle. Several threads may use one.
struct Session(*mut c_void);
unsafe impl Send for Session {}
unsafe impl Sync for Session {}

impl Session {
    fn open(bundle: &CStr, onnxruntime: Option<&CStr>) -> Result<Session, String> {
        let mut session = ptr::null_mut();
        unsafe {
            let mut options: ffi::Options = std::mem::zeroed();
            ffi::je_options_init(&mut options, size_of::<ffi::Options>() as u32);
            options.onnxruntime = onnxruntime.map_or(ptr::null(), CStr::as_ptr);
            check(ffi::je_session_open(bundle.as_ptr(), &options, &mut session))?;
        }
        Ok(Session(session))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        unsafe { ffi::je_session_close(self.0) }
    }
}

/// A request that was started. One thread at a time may use it.
struct Job(*mut c_void);

impl Drop for Job {
    fn drop(&mut self) {
        unsafe { ffi::je_job_free(self.0) }
    }
}

/// Draw one image to a file. Return the number of events.
fn draw(session: &Session, prompt: &CStr, seed: u64, path: &CStr) -> Result<usize, String> {
    let mut job = Job(ptr::null_mut());
    let mut count = 0;
    unsafe {
        let mut request: ffi::Request = std::mem::zeroed();
        ffi::je_request_init(&mut request, size_of::<ffi::Request>() as u32);
        request.prompt = prompt.as_ptr();
        request.seed = seed;
        check(ffi::je_job_start(session.0, &request, &mut job.0))?;
        let mut event: ffi::Event = std::mem::zeroed();
        event.size = size_of::<ffi::Event>() as u32;
        while check(ffi::je_job_next(job.0, &mut event))? == 0 {
            count += 1;
            if event.kind == ffi::EVENT_IMAGE {
                check(ffi::je_image_save(path.as_ptr(), &event.image, ptr::null(), 0))?;
            }
        }
    }
    Ok(count)
}

fn run(words: &[CString]) -> Result<(), String> {
    let session = Session::open(&words[1], words.get(3).map(|word| word.as_c_str()))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2u64)
            .map(|seed| {
                let (session, prompt) = (&session, &words[2]);
                scope.spawn(move || {
                    let path = CString::new(format!("out-{seed}.png")).unwrap();
                    draw(session, prompt, seed, &path)
                })
            })
            .collect();
        for (seed, thread) in threads.into_iter().enumerate() {
            let count = thread.join().map_err(|_| "a thread panicked".to_string())??;
            println!("out-{seed}.png, {count} events");
        }
        Ok(())
    })
}

fn main() -> ExitCode {
    let words: Vec<CString> = std::env::args().map(|word| CString::new(word).unwrap()).collect();
    if words.len() < 3 {
        eprintln!("usage: draw BUNDLE PROMPT [ONNXRUNTIME]");
        return ExitCode::from(2);
    }
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("error: {line}");
            ExitCode::FAILURE
        }
    }
}
