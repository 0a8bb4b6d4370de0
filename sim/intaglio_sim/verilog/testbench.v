// The accelerator with its clock, a memory, and an access port for registers, all inside the
// simulation: the test bench in Python only starts, waits and looks at the end.
//
// Plusargs: +image=FILE (beats of R bytes, in hexadecimal, highest byte first), +image_bytes=N
// +memory_base=N +bad=OFFSET +latency=N +interval=N +stall=PERCENT +seed=N +dump=FILE +trace=FILE
// +progress=FILE +progress_mask=N
//
// `command` is a toggle: changing it starts a register access (`command_write`, `command_address`,
// `command_data`), after which `finished` takes the same value and `result`, `response` are valid.
// `event_seen` is high while the interrupt is, and from cycle `deadline` on. Setting `dump_now`
// writes the first `image_bytes` bytes of the memory to the file +dump.
//
// Lines of the trace: "CYCLE start UNIT INDEX", "CYCLE done UNIT INDEX", and "CYCLE control DATA"
// when a write to the register `control` is answered. Lines of the progress, in each cycle that has
// no bit in common with the mask: "CYCLE INDEX", the instruction that was done last.
module testbench #(
    parameter R = 8,
    parameter BEATS = 1 << 16
) ();
    reg clk = 1'b0;
    reg rst = 1'b1;
    always #5 clk = ~clk;

    // Register accesses.
    reg         command = 1'b0;
    reg         command_write = 1'b0;
    reg  [11:0] command_address = 12'd0;
    reg  [31:0] command_data = 32'd0;
    reg         finished = 1'b0;
    reg  [31:0] result = 32'd0;
    reg  [1:0]  response = 2'd0;
    reg         dump_now = 1'b0;
    reg         dumped = 1'b0;
    reg  [31:0] deadline = 32'hffff_ffff;
    reg         event_seen = 1'b0;
    reg  [31:0] cycle = 32'd0;

    // Settings.
    reg [31:0] image_bytes, memory_base, bad, latency, interval, stall, seed;
    reg [31:0] progress_mask, newest = 32'd0;
    reg [8*1024-1:0] image, dump, trace_path, progress_path;
    integer trace_file = 0, progress_file = 0;

    wire violation, interrupt;
    wire [3:0] trace_start, trace_done;
    wire [31:0] index_start [0:3];
    wire [31:0] index_done [0:3];

    wire awid, bid, arid, rid;
    wire [31:0] awaddr, araddr;
    wire [7:0] awlen, arlen;
    wire [2:0] awsize, arsize;
    wire [1:0] awburst, arburst, bresp, rresp;
    wire awvalid, awready, wvalid, wready, wlast, bvalid, bready;
    wire arvalid, arready, rvalid, rready, rlast;
    wire [8*R-1:0] wdata, rdata;
    wire [R-1:0] wstrb;

    reg l_awvalid = 1'b0, l_wvalid = 1'b0, l_arvalid = 1'b0, l_busy = 1'b0;
    wire l_awready, l_wready, l_arready, l_bvalid, l_rvalid;
    wire [1:0] l_bresp, l_rresp;
    wire [31:0] l_rdata;

    accelerator dut (
        .clk(clk), .rst(rst), .interrupt(interrupt),
        .m_axi_awid(awid), .m_axi_bid(bid), .m_axi_arid(arid), .m_axi_rid(rid),
        .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awsize(awsize), .m_axi_awburst(awburst),
        .m_axi_awvalid(awvalid), .m_axi_awready(awready),
        .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast),
        .m_axi_wvalid(wvalid), .m_axi_wready(wready),
        .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(bready),
        .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arsize(arsize), .m_axi_arburst(arburst),
        .m_axi_arvalid(arvalid), .m_axi_arready(arready),
        .m_axi_rdata(rdata), .m_axi_rresp(rresp), .m_axi_rlast(rlast),
        .m_axi_rvalid(rvalid), .m_axi_rready(rready),
        .s_axil_awaddr(command_address), .s_axil_awprot(3'd0),
        .s_axil_awvalid(l_awvalid), .s_axil_awready(l_awready),
        .s_axil_wdata(command_data), .s_axil_wstrb(4'hf),
        .s_axil_wvalid(l_wvalid), .s_axil_wready(l_wready),
        .s_axil_bresp(l_bresp), .s_axil_bvalid(l_bvalid), .s_axil_bready(1'b1),
        .s_axil_araddr(command_address), .s_axil_arprot(3'd0),
        .s_axil_arvalid(l_arvalid), .s_axil_arready(l_arready),
        .s_axil_rdata(l_rdata), .s_axil_rresp(l_rresp),
        .s_axil_rvalid(l_rvalid), .s_axil_rready(1'b1),
        .trace_start(trace_start), .trace_done(trace_done),
        .trace_start_index_load(index_start[0]), .trace_done_index_load(index_done[0]),
        .trace_start_index_array(index_start[1]), .trace_done_index_array(index_done[1]),
        .trace_start_index_vector(index_start[2]), .trace_done_index_vector(index_done[2]),
        .trace_start_index_store(index_start[3]), .trace_done_index_store(index_done[3])
    );

    memory_model #(.R(R), .BEATS(BEATS)) memory_model (
        .clk(clk), .rst(rst), .base(memory_base), .bytes(image_bytes), .bad(bad), .latency(latency),
        .interval(interval), .stall(stall), .seed(seed), .violation(violation),
        .s_axi_awid(awid), .s_axi_bid(bid), .s_axi_arid(arid), .s_axi_rid(rid),
        .s_axi_awaddr(awaddr), .s_axi_awlen(awlen), .s_axi_awsize(awsize), .s_axi_awburst(awburst),
        .s_axi_awvalid(awvalid), .s_axi_awready(awready),
        .s_axi_wdata(wdata), .s_axi_wstrb(wstrb), .s_axi_wlast(wlast),
        .s_axi_wvalid(wvalid), .s_axi_wready(wready),
        .s_axi_bresp(bresp), .s_axi_bvalid(bvalid), .s_axi_bready(bready),
        .s_axi_araddr(araddr), .s_axi_arlen(arlen), .s_axi_arsize(arsize), .s_axi_arburst(arburst),
        .s_axi_arvalid(arvalid), .s_axi_arready(arready),
        .s_axi_rdata(rdata), .s_axi_rresp(rresp), .s_axi_rlast(rlast),
        .s_axi_rvalid(rvalid), .s_axi_rready(rready)
    );

    initial begin
        if (!$value$plusargs("image_bytes=%d", image_bytes)) image_bytes = BEATS * R;
        if (!$value$plusargs("memory_base=%d", memory_base)) memory_base = 0;
        if (!$value$plusargs("bad=%d", bad)) bad = 32'hffff_ffff;
        if (!$value$plusargs("latency=%d", latency)) latency = 20;
        if (!$value$plusargs("interval=%d", interval)) interval = 1;
        if (!$value$plusargs("stall=%d", stall)) stall = 0;
        if (!$value$plusargs("seed=%d", seed)) seed = 1;
        if ($value$plusargs("image=%s", image))
            $readmemh(image, memory_model.memory, 0, image_bytes / R - 1);
        if ($value$plusargs("trace=%s", trace_path)) trace_file = $fopen(trace_path, "w");
        if (!$value$plusargs("progress_mask=%d", progress_mask)) progress_mask = 32'hffff;
        if ($value$plusargs("progress=%s", progress_path))
            progress_file = $fopen(progress_path, "w");
    end

    integer unit;
    always @(posedge clk) begin
        cycle <= cycle + 1;
        if (cycle == 32'd7) rst <= 1'b0;
        event_seen <= !rst && (interrupt || cycle >= deadline);

        // Register accesses. The address channels and the data channel go at once.
        if (l_awready) l_awvalid <= 1'b0;
        if (l_wready) l_wvalid <= 1'b0;
        if (l_arready) l_arvalid <= 1'b0;
        if (!rst && command != finished && !l_busy) begin
            l_busy <= 1'b1;
            l_awvalid <= command_write;
            l_wvalid <= command_write;
            l_arvalid <= !command_write;
        end
        if (l_busy && (l_bvalid || l_rvalid)) begin
            l_busy <= 1'b0;
            result <= l_rdata;
            response <= command_write ? l_bresp : l_rresp;
            finished <= command;
        end

        if (trace_file != 0) begin
            for (unit = 0; unit < 4; unit = unit + 1) begin
                if (trace_start[unit])
                    $fwrite(trace_file, "%0d start %0d %0d\n", cycle, unit, index_start[unit]);
                if (trace_done[unit])
                    $fwrite(trace_file, "%0d done %0d %0d\n", cycle, unit, index_done[unit]);
            end
            if (l_busy && l_bvalid && command_address == 12'h010)
                $fwrite(trace_file, "%0d control %0d\n", cycle, command_data);
        end

        if (progress_file != 0) begin
            for (unit = 0; unit < 4; unit = unit + 1)
                if (trace_done[unit]) newest <= index_done[unit];
            if ((cycle & progress_mask) == 0) begin
                $fwrite(progress_file, "%0d %0d\n", cycle, newest);
                $fflush(progress_file);
            end
        end

        if (dump_now && !dumped) begin
            if ($value$plusargs("dump=%s", dump))
                $writememh(dump, memory_model.memory, 0, image_bytes / R - 1);
            if (trace_file != 0) $fclose(trace_file);
            trace_file = 0;
            dumped <= 1'b1;
        end
    end
endmodule
