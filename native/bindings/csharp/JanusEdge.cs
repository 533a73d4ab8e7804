// janus_edge.h for C# (.NET 8 or later, unsafe code allowed). Not run by the project's tests: there is no .NET there.
//
//     using var engine = new JanusEdge.Engine("tiny-janus");
//     foreach (var told in engine.Draw("three red circles"))
//         if (told is JanusEdge.Drawn drawn) File.WriteAllBytes("out.rgb", drawn.Pixels);
//
// Pixels and text are copied out of each event. An Engine may be used by several threads; an enumeration by one, and
// leaving it early ends its job.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Text;

namespace JanusEdge;

public sealed class JanusEdgeException(int status, string line) : Exception(line)
{
    public int Status { get; } = status;
}

public abstract record Told(double ElapsedMs);
public sealed record Progress(double ElapsedMs, long Done, long Total) : Told(ElapsedMs);
public sealed record Text(double ElapsedMs, string Piece) : Told(ElapsedMs);
public sealed record Preview(double ElapsedMs, long Index, byte[] Pixels, int Width, int Height) : Told(ElapsedMs);
public sealed record Drawn(double ElapsedMs, long Index, ulong Seed, byte[] Pixels, int Width, int Height) : Told(ElapsedMs);

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
        public int CheckAll, Reserved;
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
        public int NumPictures, Previews, Reference, TopK;
        public double GuidanceScale;
        public int NumSteps, Reserved;
        public byte* Solver;
        public double Shift, GuidanceStart, GuidanceEnd;
        public Image* Images;
        public nuint NumImages;
        public void* History;
        public nuint NumHistory;
        public int MaxTokens, ReservedToo;
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
    }

    [DllImport(Library)] internal static extern byte* je_error();
    [DllImport(Library)] internal static extern void je_options_init(Options* options, uint size);
    [DllImport(Library)] internal static extern int je_engine_open(byte* bundle, Options* options, IntPtr* engine);
    [DllImport(Library)] internal static extern void je_engine_close(IntPtr engine);
    [DllImport(Library)] internal static extern void je_request_init(Request* request, uint size);
    [DllImport(Library)] internal static extern int je_job_start(IntPtr engine, Request* request, IntPtr* job);
    [DllImport(Library)] internal static extern int je_job_next(IntPtr job, Event* told);
    [DllImport(Library)] internal static extern void je_job_free(IntPtr job);

    internal static int Check(int status) =>
        status >= 0 ? status : throw new JanusEdgeException(status, Marshal.PtrToStringUTF8((IntPtr)je_error())!);

    internal static byte[] Utf8(string text) => Encoding.UTF8.GetBytes(text + '\0');

    internal static Told Copied(in Event told)
    {
        byte[] pixels = told.Image.Pixels == null
            ? []
            : new ReadOnlySpan<byte>(told.Image.Pixels, told.Image.Stride * told.Image.Height).ToArray();
        return told.Kind switch
        {
            0 => new Progress(told.ElapsedMs, told.Done, told.Total),
            1 => new Text(told.ElapsedMs, Encoding.UTF8.GetString(told.Text, (int)told.TextLength)),
            2 => new Preview(told.ElapsedMs, told.Index, pixels, told.Image.Width, told.Image.Height),
            _ => new Drawn(told.ElapsedMs, told.Index, told.Seed, pixels, told.Image.Width, told.Image.Height),
        };
    }
}

/// <summary>An RGB picture, rows from the top without gaps.</summary>
public sealed record Picture(byte[] Pixels, int Width, int Height);

public sealed class Engine : IDisposable
{
    private IntPtr _engine;

    public unsafe Engine(string bundle, string? onnxRuntime = null, int numThreads = 0)
    {
        Native.Options options;
        Native.je_options_init(&options, (uint)sizeof(Native.Options));
        options.NumThreads = numThreads;
        fixed (byte* path = Native.Utf8(bundle), library = onnxRuntime is null ? null : Native.Utf8(onnxRuntime))
        {
            options.OnnxRuntime = library;
            IntPtr engine;
            Native.Check(Native.je_engine_open(path, &options, &engine));
            _engine = engine;
        }
    }

    /// <summary>Progress, previews if wanted, and each finished picture.</summary>
    public IEnumerable<Told> Draw(string prompt, ulong seed = 0, int numPictures = 1, bool previews = false) =>
        Events(Start(0, prompt, seed, [], numPictures, previews));

    /// <summary>An answer about pictures, in pieces as it comes.</summary>
    public IEnumerable<Told> Ask(string question, params Picture[] pictures) =>
        Events(Start(1, question, 0, pictures, 1, false));

    private unsafe IntPtr Start(int task, string prompt, ulong seed, Picture[] pictures, int numPictures, bool previews)
    {
        ObjectDisposedException.ThrowIf(_engine == IntPtr.Zero, this);
        Native.Request request;
        Native.je_request_init(&request, (uint)sizeof(Native.Request));
        var pins = new List<GCHandle>();
        try
        {
            var images = new Native.Image[pictures.Length];
            for (int i = 0; i < pictures.Length; i++)
            {
                pins.Add(GCHandle.Alloc(pictures[i].Pixels, GCHandleType.Pinned));
                images[i] = new Native.Image
                {
                    Pixels = (byte*)pins[i].AddrOfPinnedObject(), Width = pictures[i].Width,
                    Height = pictures[i].Height, Stride = pictures[i].Width * 3, Channels = 3,
                };
            }
            fixed (byte* text = Native.Utf8(prompt))
            fixed (Native.Image* first = images)
            {
                request.Task = task;
                request.Prompt = text;
                request.Seed = seed;
                request.NumPictures = numPictures;
                request.Previews = previews ? 1 : 0;
                request.Images = first;
                request.NumImages = (nuint)images.Length;
                IntPtr job;
                Native.Check(Native.je_job_start(_engine, &request, &job)); // reads all of it
                return job;
            }
        }
        finally
        {
            foreach (GCHandle pin in pins) pin.Free();
        }
    }

    private static IEnumerable<Told> Events(IntPtr job)
    {
        try
        {
            while (Next(job) is { } told) yield return told;
        }
        finally
        {
            Native.je_job_free(job);
        }
    }

    private static unsafe Told? Next(IntPtr job)
    {
        Native.Event told = default;
        told.Size = (uint)sizeof(Native.Event);
        return Native.Check(Native.je_job_next(job, &told)) == 0 ? Native.Copied(told) : null;
    }

    public void Dispose()
    {
        Native.je_engine_close(_engine);
        _engine = IntPtr.Zero;
        GC.SuppressFinalize(this);
    }

    ~Engine() => Native.je_engine_close(_engine);
}
