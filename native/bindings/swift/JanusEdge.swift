// janus_edge.h for Swift (5.9 or later). The project's tests do not run it: they have no Swift.
//
//     swiftc JanusEdge.swift main.swift -I DIR -L LIB     with module.modulemap and janus_edge.h in DIR
//
//     let session = try Session("bundles/tiny-things")
//     for try await event in session.draw("a red apple") {
//         if case .image(let image, let seed) = event { print(image.width, seed) }
//     }
//
// Pixels and text are copied out of each event. Each job works on its own thread. Leaving the loop cancels it.
import CJanusEdge
import Foundation

/// A negative je_status and the line of je_error().
public struct JanusEdgeError: Error, CustomStringConvertible {
    public let status: Int32
    public let description: String
}

/// An RGB image, 8 bits per channel: rows from the top without gaps.
public struct Image: Sendable {
    public let pixels: [UInt8]
    public let width: Int
    public let height: Int

    public init(pixels: [UInt8], width: Int, height: Int) {
        (self.pixels, self.width, self.height) = (pixels, width, height)
    }

    init(_ image: je_image) {
        let size = Int(image.stride) * Int(image.height)
        pixels = Array(UnsafeBufferPointer(start: image.pixels, count: size))
        (width, height) = (Int(image.width), Int(image.height))
    }
}

/// An event of a job: `done` of `total` codes or steps, a piece of an answer, a preview, or a finished image.
public enum Event: Sendable {
    case progress(done: Int, total: Int)
    case text(String)
    case preview(Image, index: Int)
    case image(Image, seed: UInt64)
}

@discardableResult
func check(_ status: je_status) throws -> je_status {
    guard status >= 0 else { throw JanusEdgeError(status: status, description: String(cString: je_error())) }
    return status
}

/// An open bundle. Several tasks may use one.
public final class Session: @unchecked Sendable {
    private var session: OpaquePointer?

    /// Open the folder of a bundle. onnxRuntime: file of its library; nil: found by the C library.
    public init(_ bundle: String, onnxRuntime: String? = nil) throws {
        var options = je_options()
        je_options_init(&options, UInt32(MemoryLayout<je_options>.size))
        let library = onnxRuntime.flatMap { strdup($0) }
        defer { free(library) }
        options.onnxruntime = library.map { UnsafePointer($0) }
        try check(je_session_open(bundle, &options, &session))
    }

    deinit { je_session_close(session) }

    /// Draw one image.
    public func draw(_ prompt: String, seed: UInt64 = 0, previews: Bool = false) -> AsyncThrowingStream<Event, Error> {
        events(of: prompt) { request in
            request.seed = seed
            request.previews = previews ? 1 : 0
        }
    }

    /// Answer a question about an image.
    public func ask(_ question: String, about image: Image) -> AsyncThrowingStream<Event, Error> {
        events(of: question, about: image) { $0.task = Int32(JE_TASK_ASK) }
    }

    private func events(
        of prompt: String, about image: Image? = nil, set: (inout je_request) -> Void
    ) -> AsyncThrowingStream<Event, Error> {
        var request = je_request()
        je_request_init(&request, UInt32(MemoryLayout<je_request>.size))
        set(&request)
        var job: OpaquePointer?
        let started = Result { try start(&request, prompt, image, &job) }
        return AsyncThrowingStream { stream in
            if case .failure(let error) = started { return stream.finish(throwing: error) }
            let running = Running(job: job, session: self)
            stream.onTermination = { _ in running.cancel() }
            Thread.detachNewThread { running.run(into: stream) }
        }
    }

    // je_job_start reads all that the request points to.
    private func start(
        _ request: inout je_request, _ prompt: String, _ image: Image?, _ job: inout OpaquePointer?
    ) throws {
        try prompt.withCString { text in
            request.prompt = text
            guard let image else {
                try check(je_job_start(session, &request, &job))
                return
            }
            try image.pixels.withUnsafeBufferPointer { pixels in
                let (width, height) = (Int32(image.width), Int32(image.height))
                let image = je_image(
                    pixels: pixels.baseAddress, width: width, height: height, stride: width * 3, channels: 3)
                try withUnsafePointer(to: image) { first in
                    request.input_images = first
                    request.num_input_images = 1
                    try check(je_job_start(session, &request, &job))
                }
            }
        }
    }
}

/// A job. It is freed when neither its thread nor the stream, which may cancel it, holds it any longer.
private final class Running: @unchecked Sendable {
    private let job: OpaquePointer?
    private let session: Session

    init(job: OpaquePointer?, session: Session) { (self.job, self.session) = (job, session) }
    deinit { je_job_free(job) }

    func cancel() { je_job_cancel(job) }

    func run(into stream: AsyncThrowingStream<Event, Error>.Continuation) {
        var event = je_event()
        event.size = UInt32(MemoryLayout<je_event>.size)
        do {
            while try check(je_job_next(job, &event)) == 0 {
                stream.yield(Running.copied(event))
            }
            stream.finish()
        } catch {
            stream.finish(throwing: error)
        }
    }

    private static func copied(_ event: je_event) -> Event {
        switch Int(event.kind) {
        case JE_EVENT_PROGRESS: return .progress(done: Int(event.done), total: Int(event.total))
        case JE_EVENT_TEXT: return .text(String(cString: event.text))
        case JE_EVENT_PREVIEW: return .preview(Image(event.image), index: Int(event.index))
        default: return .image(Image(event.image), seed: event.seed)
        }
    }
}
