// janus_edge.h for C# (.NET 8 or later, with AllowUnsafeBlocks). The project's tests do not run it: they have no .NET.
//
//     using var session = new JanusEdge.Session("bundles/tiny-things");
//     foreach (var next in session.Draw("a red apple"))
//         if (next is JanusEdge.Drawn drawn) File.WriteAllBytes("out.rgb", drawn.Pixels);
//
// Pixels and text are copied out of each event. Several threads may use a Session. One thread may use an enumeration;
// leaving it early ends its job.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Text;

namespace JanusEdge;

/// <summary>A negative je_status and the line of je_error().</summary>
public sealed class JanusEdgeException(int status, string line) : Exception(line)
{
    public int Status { get; } = status;
}

/// <summary>An event of a job. ElapsedMs: time since the job was started, in ms.</summary>
public abstract record JanusEvent(double ElapsedMs);
/// <summary>Done of Total codes or steps of all images.</summary>
public sealed record Progress(double ElapsedMs, long Done, long Total) : JanusEvent(ElapsedMs);
/// <summary>The next piece of an answer.</summary>
public sealed record Text(double ElapsedMs, string Piece) : JanusEvent(ElapsedMs);
/// <summary>A preview of image Index. Pixels: RGB.</summary>
public sealed record Preview(double ElapsedMs, long Index, byte[] Pixels, int Width, int Height) : JanusEvent(ElapsedMs);
/// <summary>A finished image. Pixels: RGB.</summary>
public sealed record Drawn(double ElapsedMs, long Index, ulong Seed, byte[] Pixels, int Width, int Height) : JanusEvent(ElapsedMs);

internal static unsafe class Native
{
    private const string Library = "janus_edge";

    [StructLayout(LayoutKind.Sequential)]
    internal struct Image
    {
        public byte* Pixels;
        public int Width, Height, Stride, Channels;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Options
    {
        public uint Size;
        public int NumThreads;
        public byte* OnnxRuntime, Device;
        public int CheckAll, ContextMb;
        public IntPtr Log, LogContext;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Request
    {
        public uint Size;
        public int Task;
        public byte* Prompt;
        public ulong Seed;
        public double Temperature, TopP;
        public byte** MorePrompts;
        public nuint NumMorePrompts;
        public int NumImages, Previews, Reference, TopK;
        public double GuidanceScale;
        public int NumSteps, Parallel;
        public byte* Solver;
        public double Shift, GuidanceStart, GuidanceEnd;
        public Image* InputImages;
        public nuint NumInputImages;
        public void* History;
        public nuint NumHistory;
        public int MaxTokens, Window;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Event
    {
        public uint Size;
        public int Kind;
        public double ElapsedMs;
        public long Done, Total;
        public byte* Unit, Text;
        public nuint TextLength;
        public long Index;
        public ulong Seed;
        public Image Image;
        public int* Codes;
        public nuint NumCodes;
        public float* Latent;
        public nuint NumLatent;
        public int Approximate;
    }

    [DllImport(Library)] internal static extern byte* je_error();
    [DllImport(Library)] internal static extern void je_options_init(Options* options, uint size);
    [DllImport(Library)] internal static extern int je_session_open(byte* bundle, Options* options, IntPtr* session);
    [DllImport(Library)] internal static extern void je_session_close(IntPtr session);
    [DllImport(Library)] internal static extern void je_request_init(Request* request, uint size);
    [DllImport(Library)] internal static extern int je_job_start(IntPtr session, Request* request, IntPtr* job);
    [DllImport(Library)] internal static extern int je_job_next(IntPtr job, Event* next);
    [DllImport(Library)] internal static extern void je_job_free(IntPtr job);

    internal static int Check(int status) =>
        status >= 0 ? status : throw new JanusEdgeException(status, Marshal.PtrToStringUTF8((IntPtr)je_error())!);

    internal static byte[] Utf8(string text) => Encoding.UTF8.GetBytes(text + '\0');

    internal static JanusEvent Copied(in Event source)
    {
        byte[] pixels = source.Image.Pixels == null
            ? []
            : new ReadOnlySpan<byte>(source.Image.Pixels, source.Image.Stride * source.Image.Height).ToArray();
        return source.Kind switch
        {
            0 => new Progress(source.ElapsedMs, source.Done, source.Total),
            1 => new Text(source.ElapsedMs, Encoding.UTF8.GetString(source.Text, (int)source.TextLength)),
            2 => new Preview(source.ElapsedMs, source.Index, pixels, source.Image.Width, source.Image.Height),
            _ => new Drawn(source.ElapsedMs, source.Index, source.Seed, pixels, source.Image.Width, source.Image.Height),
        };
    }
}

/// <summary>An RGB image, rows from the top without gaps.</summary>
public sealed record Image(byte[] Pixels, int Width, int Height);

/// <summary>An open bundle. Several threads may use it. Dispose closes it.</summary>
public sealed class Session : IDisposable
{
    private IntPtr _session;

    /// <summary>Open the folder of a bundle. onnxRuntime: file of its library; null: found by the C library.
    /// numThreads: 0: one per processor.</summary>
    public unsafe Session(string bundle, string? onnxRuntime = null, int numThreads = 0)
    {
        Native.Options options;
        Native.je_options_init(&options, (uint)sizeof(Native.Options));
        options.NumThreads = numThreads;
        fixed (byte* path = Native.Utf8(bundle), library = onnxRuntime is null ? null : Native.Utf8(onnxRuntime))
        {
            options.OnnxRuntime = library;
            IntPtr session;
            Native.Check(Native.je_session_open(path, &options, &session));
            _session = session;
        }
    }

    /// <summary>Draw images. Yields progress, previews if wanted, and each finished image.</summary>
    public IEnumerable<JanusEvent> Draw(string prompt, ulong seed = 0, int numImages = 1, bool previews = false) =>
        Events(Start(0, prompt, seed, [], numImages, previews));

    /// <summary>Answer a question about images. Yields the answer in pieces.</summary>
    public IEnumerable<JanusEvent> Ask(string question, params Image[] images) =>
        Events(Start(1, question, 0, images, 1, false));

    private unsafe IntPtr Start(int task, string prompt, ulong seed, Image[] images, int numImages, bool previews)
    {
        ObjectDisposedException.ThrowIf(_session == IntPtr.Zero, this);
        Native.Request request;
        Native.je_request_init(&request, (uint)sizeof(Native.Request));
        var pins = new List<GCHandle>();
        try
        {
            var nativeImages = new Native.Image[images.Length];
            for (int i = 0; i < images.Length; i++)
            {
                pins.Add(GCHandle.Alloc(images[i].Pixels, GCHandleType.Pinned));
                nativeImages[i] = new Native.Image
                {
                    Pixels = (byte*)pins[i].AddrOfPinnedObject(), Width = images[i].Width,
                    Height = images[i].Height, Stride = images[i].Width * 3, Channels = 3,
                };
            }
            fixed (byte* text = Native.Utf8(prompt))
            fixed (Native.Image* first = nativeImages)
            {
                request.Task = task;
                request.Prompt = text;
                request.Seed = seed;
                request.NumImages = numImages;
                request.Previews = previews ? 1 : 0;
                request.InputImages = first;
                request.NumInputImages = (nuint)images.Length;
                IntPtr job;
                Native.Check(Native.je_job_start(_session, &request, &job)); // it reads all that `request` points to
                return job;
            }
        }
        finally
        {
            foreach (GCHandle pin in pins) pin.Free();
        }
    }

    private static IEnumerable<JanusEvent> Events(IntPtr job)
    {
        try
        {
            while (Next(job) is { } next) yield return next;
        }
        finally
        {
            Native.je_job_free(job);
        }
    }

    private static unsafe JanusEvent? Next(IntPtr job)
    {
        Native.Event next = default;
        next.Size = (uint)sizeof(Native.Event);
        return Native.Check(Native.je_job_next(job, &next)) == 0 ? Native.Copied(next) : null;
    }

    public void Dispose()
    {
        Native.je_session_close(_session);
        _session = IntPtr.Zero;
        GC.SuppressFinalize(this);
    }

    ~Session() => Native.je_session_close(_session);
}
